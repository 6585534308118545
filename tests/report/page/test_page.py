import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from bars import Error
from cnnmod.measure.experiment import RowResult, read_experiment, write_experiment
from cnnmod.report.page.page import write_report
from cnnmod.report.page.sources import Sources, read_sources
from cnnmod.report.page.verdict import verdict
from cnnmod.training.run import Result
from tune_folder import write_tune_folder

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EXPERIMENT, COMPARISON = RESULTS / "cifar10.json", RESULTS / "resnets-runtimes.json"


def changed(tmp_path, scores):
    """Write an experiment whose rows have other scores, and return its file."""
    experiment = read_experiment(EXPERIMENT)
    rows = []
    for row in experiment.rows:
        results = [
            dataclasses.replace(result, accuracy=dataclasses.replace(result.accuracy, top1_pct=score))
            for result, score in zip(row.results, scores[row.row], strict=False)
        ]
        rows.append(dataclasses.replace(row, results=results, seeds=row.seeds[: len(results)]))
    path = tmp_path / "accuracy.json"
    write_experiment(dataclasses.replace(experiment, rows=rows), path)
    return path


def test_the_page_is_complete_and_loads_nothing(tmp_path):
    conclusion = write_report([EXPERIMENT, COMPARISON], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert conclusion in text
    assert not re.search(r"""(src|href)=["'](?!#|data:)|url\((?!["']?#)|@import""", text)
    for heading in ("Accuracy", "Time", "Blocks", "What the MoD blocks select", "How it was measured"):
        assert f"<h2>{heading}</h2>" in text
    assert "so selections and predictions are not shown" in text


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (
            {"baseline": [80.0, 80.2, 80.1], "mod": [79.0, 79.2, 79.1], "control": [78.0, 78.2, 78.1]},
            r"is 1\.0 ± 0\.2 points worse \(top-1, 3 runs\), compared .* are worth \+1\.0 ± 0\.2 points over",
        ),
        (
            {"baseline": [80.0, 80.2, 80.1], "mod": [79.0, 78.0, 77.0], "control": [78.0, 78.2, 78.1]},
            r"not measurably worth anything over leaving them out \(-0\.1 ± 2\.\d points\): use the control",
        ),
        (
            {"baseline": [80.0, 80.2, 80.1], "mod": [77.0, 77.2, 77.1], "control": [78.0, 78.2, 78.1]},
            r"The MoD blocks are worth nothing over leaving them out \(-1\.0 ± 0\.2 points\): use the control",
        ),
        (
            {"baseline": [80.0], "mod": [81.0], "control": [78.0]},
            r"1\.0 points better \(top-1, 1 run\), compared .* \+3\.0 points .* One run is too few",
        ),
    ],
    ids=["a gain", "no gain", "a loss", "one run"],
)
def test_the_verdict_follows_from_the_intervals(scores, expected, tmp_path):
    assert re.search(expected, verdict(read_sources([changed(tmp_path, scores)])))


def test_times_and_accuracies_of_other_networks_are_in_sentences_of_their_own(tmp_path):
    no_gain = {"baseline": [80.0, 80.2], "mod": [78.0, 78.1], "control": [78.0, 78.2]}
    text = verdict(read_sources([COMPARISON, changed(tmp_path, no_gain)]))
    assert re.match(
        r"resnet\d+_mod is \d\.\d\d× as fast as resnet50 in onnxruntime at batch 1\. The MoD network is ", text
    )
    assert text.endswith("use the control.")  # the tax of other networks is not named


def test_times_of_the_same_networks_are_in_one_sentence(tmp_path):
    no_gain = {"baseline": [80.0, 80.2], "mod": [78.0, 78.1], "control": [78.0, 78.2]}
    accuracies = changed(tmp_path, no_gain)
    names = [*read_experiment(accuracies).accuracies()]
    values = json.loads(COMPARISON.read_text(encoding="utf-8"))
    values["rows"] = values["rows"][:3]
    for row, name in zip(values["rows"], names, strict=True):
        row["name"] = name
    (tmp_path / "times.json").write_text(json.dumps(values))
    text = verdict(read_sources([tmp_path / "times.json", accuracies]))
    assert re.match(
        r"\w+ is \d\.\d\d× as fast as \w+ in onnxruntime at batch 1, and \d\.\d ± \d\.\d points worse", text
    )
    assert re.search(r"the MoD network takes \d+ % longer\.$", text)


def test_a_difference_within_the_spread_of_the_rounds_is_no_difference(tmp_path):
    values = json.loads(COMPARISON.read_text(encoding="utf-8"))
    for row in values["rows"]:
        for measurement in row["measurements"]:
            measurement["times_ms"] = [10.0, 20.0, 30.0, 40.0] if row["role"] == "mod" else [20.0, 20.0, 20.0, 45.0]
    (tmp_path / "times.json").write_text(json.dumps(values))
    assert verdict(read_sources([tmp_path / "times.json"])).startswith(
        "resnet50_mod is not measurably faster or slower (1.06 ± 0.21×) than resnet50 in onnxruntime at batch 1."
    )


def test_a_lower_score_can_be_better():
    """The score of tests/bars.py is an error in degrees."""

    def row(role, errors):
        results = [
            Result(accuracy=Error(images=9, broken=0, error_deg=error), seconds=1, parameters=1) for error in errors
        ]
        return RowResult(row=role, seeds=[*range(len(errors))], results=results)

    experiment = read_experiment(EXPERIMENT)
    rows = [row("baseline", [5.0, 5.1]), row("mod", [3.0, 3.1]), row("control", [4.0, 4.1])]
    sources = Sources(experiments=[(Path(), dataclasses.replace(experiment, rows=rows))])
    text = verdict(sources)
    assert re.search(r"is 2\.0 ± \d\.\d ° better .* are worth \+1\.0 ± \d\.\d ° over", text)


def test_text_of_the_sources_is_escaped(tmp_path):
    values = json.loads(COMPARISON.read_text(encoding="utf-8"))
    for row in values["rows"]:
        row["name"] = row["name"].replace("resnet50", "<script>alert(1)</script>")
    path = tmp_path / "evil.json"
    path.write_text(json.dumps(values))
    write_report([path], tmp_path / "report.html")
    assert "<script" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"the folder .* has no accuracy\.json; a report takes a folder or accuracy\.json of"),
        ("no JSON", "is not a JSON file; a report takes"),
        ('{"schema": "other"}', "is another file; a report takes"),
    ],
    ids=["folder", "no JSON", "other schema"],
)
def test_other_files_raise_before_anything_is_written(content, message, tmp_path):
    path = tmp_path
    if content is not None:
        path = tmp_path / "file.json"
        path.write_text(content)
    with pytest.raises((OSError, ValueError), match=message):
        write_report([path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_experiments_about_different_data_raise(tmp_path):
    experiment = read_experiment(EXPERIMENT)
    write_experiment(dataclasses.replace(experiment, data="cifar100"), tmp_path / "accuracy.json")
    with pytest.raises(ValueError, match=r"one data set, but .* is about cifar10 and .* about cifar100"):
        write_report([EXPERIMENT, tmp_path], tmp_path / "report.html")


@pytest.mark.parametrize(("out", "paths"), [("report.pdf", [EXPERIMENT]), ("report.html", [])])
def test_wrong_suffix_and_no_sources_raise(out, paths, tmp_path):
    with pytest.raises(ValueError, match=r"the suffix must be \.html|needs at least one of these"):
        write_report(paths, tmp_path / out)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_is_accessible_and_fits_a_phone(trained_rows, tmp_path):
    """axe finds no violation, in light and dark. The page with a plan, selections and predictions is as wide as the
    screen."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page_file = tmp_path / "report.html"
    write_report([trained_rows, COMPARISON, write_tune_folder(tmp_path / "tuned")], page_file)
    assert page_file.read_text(encoding="utf-8").count("<svg") >= 3
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((1100, "light"), (390, "light"), (1100, "dark")):
            page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
            requests = []
            page.on("request", lambda request, requests=requests: requests.append(request.url))
            page.goto(page_file.as_uri())
            assert requests == [page_file.as_uri()]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            violations = axe.Axe().run(page).response["violations"]
            assert [violation["id"] for violation in violations] == []
        browser.close()


@pytest.fixture
def trained_rows(tmp_path):
    """The folder of an experiment of one epoch."""
    from cnnmod.cli import run

    folder = tmp_path / "rows"
    run(
        f"train digits --data digits --out {folder} --rows baseline mod control --set epochs=1 train_images=200".split()
    )
    return folder

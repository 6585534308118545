import json
from pathlib import Path

import pytest

from cnnmod.cli import run
from tune_folder import write_tune_folder

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
COMPARISON, EXPERIMENT = RESULTS / "resnets-runtimes.json", RESULTS / "cifar10.json"


def test_report_prints_the_verdict_of_the_page(tmp_path, capsys):
    run(["report", str(COMPARISON), "--out", str(tmp_path / "report.html"), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == str(tmp_path / "report.html")
    assert printed["verdict"] in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_sources_about_different_things_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tune_folder(tmp_path / "tuned")
    Path("other").mkdir()
    values = json.loads(EXPERIMENT.read_text(encoding="utf-8"))
    Path("other/accuracy.json").write_text(json.dumps(values | {"data": "cifar100"}))
    for sources, message in (
        (
            [EXPERIMENT, "tuned"],
            "a report is about one network, but in tuned, the plan is of another network than that",
        ),
        ([EXPERIMENT, "other"], "a report is about one data set, but "),
    ):
        with pytest.raises(SystemExit) as exited:
            run(["report", *map(str, sources), "--out", "report.html"])
        assert exited.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith(f"cnnmod: {message}")
        assert error.count("\n") == 1
    assert not Path("report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a report needs at least one of these"),
        (["missing.json"], "the file missing.json does not exist"),
        ([str(COMPARISON), "--out", "report.pdf"], "the suffix must be .html, not 'report.pdf'"),
    ],
    ids=["no source", "missing source", "suffix"],
)
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exited:
        run(["report", *arguments])
    assert exited.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

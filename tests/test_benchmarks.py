import dataclasses
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from cnnmod import MoDConfig, convert_
from cnnmod.measure.experiment import read_experiment
from cnnmod.measure.results import read_result
from cnnmod.networks.registry import FACTORIES, register
from pictures import classes
from small import tiny_network

ROOT = Path(__file__).parents[1]


def few_images(folder):
    """Write a small data set, and return an experiment with it."""
    for split in ("train", "test"):
        classes(folder / "data" / "few", split, list("abcdef"), count=2)
    arm = {"row": "mod", "runs": 1, "twin": None}
    gated = ["config.select=first", "config.scale=input", "config.fuse_to=all"]
    return {
        "question": "?",
        "stop_rule": "all runs",
        "data": "few",
        "recipe": "cifar10_fast",
        "changes": [
            *("epochs=1", "batch_size=6", "image_size=16", "config.c=4", "optimizer=sgd"),
            "network_args.channels=[16,16,16,16]",
        ],
        "arms": {
            "control": arm | {"row": "control", "changes": [], "runs": 2},
            "gated": arm | {"changes": gated, "twin": "static"},
            "static": arm | {"changes": ["config.select=first", "config.scale=none", "config.fuse_to=all"]},
        },
    }


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "render", raising=False)
    import render

    return render


def test_tables_are_up_to_date(render):
    for page in render.PAGES:
        text = page.read_text(encoding="utf-8")
        assert "<!-- table: " in text
        assert render.rendered(text) == text, f"{page.name}: run benchmarks/render.py"


def test_stale_table_is_detected(render):
    text = render.PAGES[0].read_text(encoding="utf-8")
    stale = text.replace("| resnet75_mod |", "| resnet76_mod |")
    assert stale != text
    assert render.rendered(stale) == text


def test_readme_is_short_and_starts_with_code():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    assert "```python" in readme.split("\n", 20)[:20]


def test_architecture_page_lists_every_file():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in (ROOT / "src").rglob("*.py"):
        if path.name != "__init__.py":
            assert f"`{path.name}`" in page, path


def test_committed_results_meet_the_requirements():
    """MoD tax, speed-up and training speed-up of ResNet75-MoD in eager PyTorch."""

    def result(name):
        comparison = read_result(ROOT / "benchmarks" / "results" / f"resnet75_mod-{name}.json")
        assert comparison.rows[0].name == "resnet50"
        return comparison, comparison.row("resnet75_mod")

    comparison, mod = result("eager-batch1")
    assert comparison.mod_tax(mod, "eager", 1) <= 0.05
    assert comparison.speedup(mod, "eager", 1) >= 1.12
    comparison, mod = result("eager-batch8-channels_last")
    assert comparison.channels_last
    assert comparison.mod_tax(mod, "eager", 8) <= 0.03
    assert comparison.speedup(mod, "eager", 8) >= 1.12
    comparison, mod = result("train-batch8")
    assert comparison.step == "training"
    assert comparison.speedup(mod, "eager", 8) > 1


def test_committed_accuracies_meet_the_requirements():
    """On CIFAR-10 with three seeds, the dense network is better than the control by at least one point."""
    for name in ("cifar10", "cifar10_gpu-resnet18"):
        experiment = read_experiment(ROOT / "benchmarks" / "results" / f"{name}.json")
        baseline, control = experiment.row("baseline"), experiment.row("control")
        assert baseline is not None
        assert control is not None
        assert experiment.train_images == 50_000
        assert [len(row.seeds) for row in experiment.rows] == [3, 3, 3]
        assert baseline.mean_pct >= 85
        assert baseline.mean_pct - control.mean_pct >= 1


def test_committed_int8_accuracies_meet_the_requirements():
    """INT8 loses at most half a point, and at least 90 % of the selected channels are the same."""
    result = json.loads((ROOT / "benchmarks" / "results" / "int8.json").read_text(encoding="utf-8"))
    assert result["test_images"] == 10_000
    assert {network["row"] for network in result["networks"]} == {"baseline", "control", "mod"}
    for network in result["networks"]:
        runtimes = network["runtimes"]
        for runtime in ("onnxruntime-int8", "openvino-int8"):
            assert runtimes["eager"]["top1_pct"] - runtimes[runtime]["top1_pct"] <= 0.5, (network["row"], runtime)
        if network["row"] == "mod":
            shares = {name: found["selection"]["selected_pct"] for name, found in runtimes.items() if name != "eager"}
            assert shares["onnxruntime"] >= 99.99
            assert shares["openvino"] >= 99.99
            assert min(shares.values()) >= 90


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    return gpu


@pytest.fixture
def rehearsal(gpu, tmp_path):
    """Settings of gpu.py for networks that are small enough for a CPU."""

    @register(takes_config=False)
    def tiny_dense():
        return colored()

    @register(takes_config=True)
    def tiny_mod(config=MoDConfig()):
        return convert_(colored(), dataclasses.replace(config, c=4), example=torch.rand(1, 3, 8, 8))

    def colored():
        network = tiny_network()
        network.stem = torch.nn.Conv2d(3, 16, 3, padding=1)
        return network

    (tmp_path / "out").mkdir()
    yield gpu.Settings(
        device="cpu",
        networks=("tiny_dense", "tiny_mod"),
        focus="tiny_mod",
        runtimes=("eager",),
        dtypes=("bfloat16",),
        size=8,
        batch=(1, 2),
        training_batch=2,
        rounds=1,
        out=tmp_path / "out",
        processes=1,
    )
    del FACTORIES["tiny_dense"], FACTORIES["tiny_mod"]


@pytest.mark.slow
def test_gpu_rehearsal_writes_files_that_are_rendered(gpu, rehearsal, render, capsys):
    """The parts of a rehearsal are inference in eager PyTorch and a training step. A second call measures nothing."""
    assert gpu.main(rehearsal, minutes=30, only=("inference", "training")) == 0
    names = [f"gpu-bfloat16-eager-batch{batch}{form}" for batch in (1, 2) for form in ("", "-candidates_4")]
    names += [f"gpu-training-eager-batch2{form}" for form in ("", "-candidates_4")]
    assert {path.stem for path in rehearsal.out.iterdir()} == set(names)
    found = {name: read_result(rehearsal.out / f"{name}.json") for name in names}
    for name, comparison in found.items():
        assert [row.role for row in comparison.rows] == ["baseline", "mod", "control"]
        assert comparison.channels_last
        assert comparison.dtype == ("float32, autocast to bfloat16" if "training" in name else "bfloat16")
        assert len(comparison.rows[0].measurements[0].times_ms) == (1 if "training" in name else 4)
    table = render.summary("tiny_mod", list(found.values()))
    assert table.splitlines()[0] == "| runtime | tiny_mod | tiny_mod candidates=4 |"
    assert [line.split(" | ")[0] for line in table.splitlines()[2:4]] == [
        "| eager, batch 1 / 2",
        "| training step, eager, batch 2",
    ]
    capsys.readouterr()
    assert gpu.main(rehearsal, minutes=30, only=("inference", "training")) == 0
    assert capsys.readouterr().out.splitlines() == [
        *(f"{name}: done" for name in (names[1], names[0], names[3], names[2], names[5], names[4])),
        "failed: nothing; no time for: nothing",
    ]


def test_gpu_order_and_time_limit(gpu, rehearsal, capsys):
    settings = dataclasses.replace(
        rehearsal, runtimes=("cudagraph", "compile"), dtypes=("bfloat16", "float32"), batch=(1,)
    )
    everything = [part.name for part in gpu.parts(settings, ("cases", "inference", "training", "accuracy"))]
    assert everything == [
        "gpu-cases",
        "gpu-bfloat16-cudagraph-batch1-candidates_4",
        "gpu-bfloat16-cudagraph-batch1",
        "gpu-training-compile-batch2-candidates_4",
        "gpu-training-compile-batch2",
        *(f"gpu-float32-cudagraph-batch1{form}" for form in ("-candidates_4", "")),
        *(f"gpu-bfloat16-compile-batch1{form}" for form in ("-candidates_4", "")),
        *(f"gpu-float32-compile-batch1{form}" for form in ("-candidates_4", "")),
        "pays-cifar100-bottleneck26",
    ]
    assert gpu.main(settings, minutes=0.2) == 0
    assert capsys.readouterr().out == f"failed: nothing; no time for: {', '.join(everything)}\n"
    assert not list(rehearsal.out.iterdir())


def test_gpu_part_that_fails_does_not_stop_the_others(gpu, rehearsal, monkeypatch, capsys):
    settings = dataclasses.replace(rehearsal, runtimes=("cudagraph", "eager"), batch=(1,))
    monkeypatch.setattr(gpu, "FORMS", {"": ""})
    assert gpu.main(settings, minutes=30, only=("inference",)) == 1
    assert [path.name for path in rehearsal.out.iterdir()] == ["gpu-bfloat16-eager-batch1.json"]
    assert "failed: gpu-bfloat16-cudagraph-batch1; no time for: nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return count", 0, "failed: nothing"),
        ("assert False, 'seed 3: wrong'", 1, "a case is wrong; nothing is timed"),
        ("import os; os.abort()", 1, "a case is wrong; nothing is timed"),
    ],
)
def test_gpu_stops_at_a_wrong_case(gpu, rehearsal, tmp_path, monkeypatch, capsys, body, code, said):
    cases = tmp_path / "some_cases.py"
    cases.write_text(f"def run_cases(count, device):\n    {body}\n")
    monkeypatch.setattr(gpu, "CASES", cases)
    monkeypatch.setattr(gpu, "inference_parts", lambda *args: pytest.fail("it is not reached") if code else [])
    assert gpu.main(rehearsal, minutes=30, only=("cases", "inference")) == code
    out = capsys.readouterr().out
    assert said in out
    assert ("seed 3: wrong" in out) == ("seed" in body)
    if code == 0:
        written = json.loads((rehearsal.out / "gpu-cases.json").read_text())
        assert (written["schema"], written["cases"]) == ("cnnmod.gpu_cases/1", 1000)
        assert gpu.main(rehearsal, minutes=30, only=("cases",)) == 0
        assert "gpu-cases: done" in capsys.readouterr().out
    else:
        assert not list(rehearsal.out.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")
def test_gpu_without_a_gpu_raises(gpu):
    with pytest.raises(ValueError, match="torch finds no GPU"):
        gpu.main()


@pytest.mark.slow
def test_gpu_trains_the_arms_and_resumes(gpu, rehearsal, tmp_path, capsys):
    plan = few_images(tmp_path)
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(plan))
    settings = dataclasses.replace(rehearsal, experiment=path, data=tmp_path / "data", runs=tmp_path / "runs")
    assert gpu.main(settings, minutes=30, only=("accuracy",)) == 0
    assert (settings.out / "pays-tiny.json").exists()
    assert gpu.main(settings, minutes=30, only=("accuracy",)) == 0
    assert "pays-tiny: done" in capsys.readouterr().out


@pytest.mark.slow
def test_gpu_script_packs_what_it_wrote(tmp_path):
    """`--minutes 0` writes nothing; the packed files can be unpacked in the root of the repository."""
    script = [str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path), "--minutes", "0", "--device", "cpu"]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no time for: gpu-cases" in (tmp_path / "gpu.log").read_text()
    with tarfile.open(tmp_path / "gpu.tgz") as archive:
        assert archive.getnames() == []


@pytest.mark.slow
def test_cifar10_gpu_resumes_after_a_time_limit(tmp_path, monkeypatch, capsys):
    """The script runs on a CPU here."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import cifar10_gpu

    for split in ("train", "test"):
        classes(tmp_path / "data", split, list("abcdefghij"), count=2)
    monkeypatch.setattr(cifar10_gpu, "NETWORKS", ("resnet18", "vgg16_bn"))
    monkeypatch.setattr(cifar10_gpu, "CHANGES", (("order=index", "c=16"),))
    monkeypatch.setattr(cifar10_gpu, "FULL_WIDTH", ("network_args={}", "epochs=1", "warmup_epochs=0", "batch_size=10"))
    folders = {"data": tmp_path / "data", "runs": tmp_path / "runs", "out": tmp_path}
    cifar10_gpu.main(minutes=0, seeds=1, processes=1, **folders)
    assert "out of time" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))
    cifar10_gpu.main(minutes=5, seeds=1, processes=1, **folders)
    for name in ("resnet18", "vgg16_bn", "resnet18-order_index_c_16"):
        found = read_experiment(tmp_path / f"cifar10_gpu-{name}.json")
        assert [(row.row, row.results[0].accuracy.images) for row in found.rows] == [
            (row, 20) for row in (("mod",) if "order" in name else ("baseline", "mod", "control"))
        ]
        assert found.recipe.networks.network == f"{name.split('-')[0]}_cifar_mod"


def test_pays_table_has_the_measure_of_the_task(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from pays_table import pays_table

    def arm(name, *accuracies):
        results = [{"accuracy": {"miou_pct": value, "pixel_accuracy_pct": 90.0, "images": 101}} for value in accuracies]
        return {"arm": name, "twin": None, "results": results}

    result = {
        "arms": [arm("control", 50.0, 52.0), arm("narrow", 53.0, 55.0)],
        "plan": {"data": "camvid", "recipe": "camvid", "changes": []},
        "provenance": {"device": "cpu", "versions": {"torch": "2.11"}},
    }
    table = pays_table(result).splitlines()
    assert table[0] == "| arm | n | mean IoU % | over control |"
    assert table[2] == "| control | 2 | 51.00 ±1.41 |  |"
    assert table[3].startswith("| narrow | 2 | 54.00 ±1.41 | +3.00 ")
    assert "Mean IoU on 101 test images of camvid" in table[-1]


@pytest.mark.slow
def test_pays_resumes_after_a_time_limit(tmp_path, monkeypatch, capsys):
    """The script resumes, and refuses an experiment that was changed after its first run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import pays
    from pays_table import pays_table

    plan = few_images(tmp_path)
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(plan))
    folders = {"data": tmp_path / "data", "runs": tmp_path / "runs", "out": tmp_path, "processes": 1}
    pays.main(path, minutes=0, **folders)
    assert "out of time" in capsys.readouterr().out
    pays.main(path, minutes=5, **folders)
    result = json.loads((tmp_path / "pays-tiny.json").read_text())
    assert [(arm["arm"], arm["seeds"]) for arm in result["arms"]] == [
        ("control", [0, 1]),
        ("gated", [0]),
        ("static", [0]),
    ]
    assert all(run["accuracy"]["images"] == 12 for arm in result["arms"] for run in arm["results"])
    assert pays_table(result).count("| gated | 1 |") == 1
    plan["arms"]["control"]["runs"] = 3
    path.write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=r"tiny\.json was changed after its first run"):
        pays.main(path, minutes=5, **folders)

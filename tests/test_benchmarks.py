import json
import sys
from pathlib import Path

import pytest

from cnnmod.measure.experiment import read_experiment
from cnnmod.measure.results import read_result
from pictures import classes

ROOT = Path(__file__).parents[1]


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


@pytest.mark.slow
def test_eager_gpu_runs_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import eager_gpu

    networks = ("resnet18_cifar", "resnet18_cifar_mod")
    for name, value in {"NETWORKS": networks, "BATCHES": (1, 2), "ROUNDS": 1, "SIZE": 8}.items():
        monkeypatch.setattr(eager_gpu, name, value)
    eager_gpu.main("cpu", tmp_path)
    for dtype in ("float32", "bfloat16"):
        found = read_result(tmp_path / f"resnet18_cifar_mod-eager_gpu-{dtype}.json")
        assert (found.dtype, [row.role for row in found.rows]) == (dtype, ["baseline", "mod", "control"])
        assert found.conditions == [("eager", 1), ("eager", 2)]


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


@pytest.mark.slow
def test_pays_resumes_after_a_time_limit(tmp_path, monkeypatch, capsys):
    """The script resumes, and refuses an experiment that was changed after its first run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import pays
    from pays_table import pays_table

    for split in ("train", "test"):
        classes(tmp_path / "data" / "few", split, list("abcdef"), count=2)
    arm = {"row": "mod", "runs": 1, "twin": None}
    slots = ["config.select=slots", "config.scale=input", "config.fuse_to=all"]
    plan = {
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
            "slots": arm | {"changes": slots, "twin": "static"},
            "static": arm | {"changes": ["config.select=first", "config.scale=none", "config.fuse_to=all"]},
        },
    }
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(plan))
    folders = {"data": tmp_path / "data", "runs": tmp_path / "runs", "out": tmp_path, "processes": 1}
    pays.main(path, minutes=0, **folders)
    assert "out of time" in capsys.readouterr().out
    pays.main(path, minutes=5, **folders)
    result = json.loads((tmp_path / "pays-tiny.json").read_text())
    assert [(arm["arm"], arm["seeds"]) for arm in result["arms"]] == [
        ("control", [0, 1]),
        ("slots", [0]),
        ("static", [0]),
    ]
    assert all(run["accuracy"]["images"] == 12 for arm in result["arms"] for run in arm["results"])
    assert pays_table(result).count("| slots | 1 |") == 1
    plan["arms"]["control"]["runs"] = 3
    path.write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=r"tiny\.json was changed after its first run"):
        pays.main(path, minutes=5, **folders)

"""Read broken result files, accuracy files and run.json files."""

import dataclasses
import json

import pytest
import torch

from cnnmod.measure.experiment import Experiment, RowResult, read_experiment, write_experiment
from cnnmod.measure.results import Comparison, Measurement, Row, read_result, write_result
from cnnmod.method.checkpoint import save
from cnnmod.networks import build
from cnnmod.records.provenance import Provenance
from cnnmod.training.folder import Run, classes_of, read_run
from cnnmod.training.recipes import recipe
from cnnmod.training.run import Result
from cnnmod.training.scores import Accuracy
from fuzz.checks import SEEDS, fault_of, fault_of_command, little_memory, untouched
from fuzz.mutate import LFS_POINTER, mutated_json

BROKEN = {
    "empty": b"",
    "LFS pointer": LFS_POINTER,
    "not UTF-8": b'{"schema": "\xff\xfe"}',
    "UTF-16": '{"run": {}}'.encode("utf-16"),
    "deep": b"[" * 200_000 + b"]" * 200_000,
    "deep objects": b'{"run": ' * 200_000 + b"1" + b"}" * 200_000,
    "a long number": b'{"run": ' + b"9" * 100_000 + b"}",
    "null": b"null",
    "a list": b'["run", "schema"]',
    "NaN": b"NaN",
}


ARGUMENTS = {"channels": [8, 8, 8, 8]}  # without `layers`, since building a billion layers would not end
RECIPE = recipe("digits", [f"network_args={json.dumps(ARGUMENTS)}"])


def result():
    def row(name, role, factor):
        found = [
            Measurement(
                runtime=runtime,
                batch_size=1,
                times_ms=[factor * time for time in (3.0, 3.1, 2.9)],
                peak_memory_mib=None,
            )
            for runtime in ("eager", "onnxruntime")
        ]
        return Row(name=name, role=role, parameters=11, gmacs=0.5, accuracy_pct=70.0 + factor, measurements=found)

    return Comparison(
        step="inference",
        image_shape=[3, 8, 8],
        dtype="float32",
        channels_last=False,
        accuracy_source="top-1 on digits",
        rows=[row("resnet50", "baseline", 1.0), row("net", "mod", 0.8), row("net control", "control", 0.7)],
        provenance=Provenance.now(torch.device("cpu"), 2),
    )


def experiment():
    reached = Result(accuracy=Accuracy(90.0, 99.0, 450, 0), seconds=3.5, parameters=1000)
    rows = [RowResult(row=row, seeds=[0, 1], results=[reached, reached]) for row in ("baseline", "mod", "control")]
    return Experiment(
        name="digits",
        recipe=RECIPE,
        data="digits",
        train_images=1347,
        num_classes=10,
        rows=rows,
        provenance=Provenance.now(torch.device("cpu"), 2),
    )


@pytest.fixture
def file_of(tmp_path, monkeypatch):
    """A function that writes a valid file of a kind to the folder `files`, which is also the current folder."""
    (tmp_path / "files").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "files")

    def write(kind):
        path = tmp_path / "files" / f"{kind}.json"
        if kind == "result":
            write_result(result(), path)
        elif kind == "accuracy":
            write_experiment(experiment(), path)
        else:
            run = Run(recipe=RECIPE, row="mod", seed=0, data="digits")
            provenance = dataclasses.asdict(Provenance.now(torch.device("cpu"), 2))
            classes = [str(digit) for digit in range(10)]
            path.write_text(json.dumps({"run": run.to_dict(), "classes": classes, "provenance": provenance}))
            arguments = ARGUMENTS | {"num_classes": 10, "in_chans": 1}
            model = build("resnet18_cifar_mod", **arguments)
            save(model, path.parent / "best.safetensors", factory="cnnmod/resnet18_cifar_mod", factory_args=arguments)
        return path

    return write


def read(path):
    """Read a file as all functions and commands do."""
    if path.name == "result.json":
        comparison = read_result(path)
        for runtime, batch_size in comparison.conditions:
            for row in comparison.rows:
                comparison.speedup(row, runtime, batch_size)
                if row.role == "mod":
                    comparison.mod_tax(row, runtime, batch_size)
    elif path.name == "accuracy.json":
        found = read_experiment(path)
        assert found.accuracies()
        assert found.measure
    else:
        read_run(path.parent)
        classes_of(path.parent / "best.safetensors")


def command(path):
    """Return a command that reads the file. If the file is valid, the second and the third command fail for another
    reason, since they would take long."""
    if path.name == "result.json":
        return ["plot", str(path), "--out", str(path.parents[1] / "out" / "figure.png")]
    if path.name == "accuracy.json":
        return ["compare", "--accuracy", str(path), "--batch", "0"]
    return ["evaluate", str(path.parent / "best.safetensors"), "--data", "digits", "--workers", "-1"]


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", ["result", "accuracy", "run"])
def test_broken_file_raises_one_line(kind, seeds, file_of):
    path = file_of(kind)
    content = path.read_bytes()
    read(path)
    faults = {}
    with untouched(path.parents[1] / "out"):
        for seed in seeds:
            path.write_bytes(mutated_json(content, seed))
            faults[seed] = fault_of(lambda: read(path))
    assert not {seed: fault for seed, fault in faults.items() if fault}


@pytest.mark.filterwarnings("ignore:Glyph")  # names can have characters that the font does not have
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", ["result", "accuracy", "run"])
def test_broken_file_exits_2_on_the_command_line(kind, seeds, file_of, capsys):
    path = file_of(kind)
    content = path.read_bytes()
    faults = {}
    for seed in seeds:
        path.write_bytes(mutated_json(content, seed))
        with untouched(path.parent), little_memory():
            faults[seed] = fault_of_command(command(path), capsys)
    assert not {seed: fault for seed, fault in faults.items() if fault}
    assert {file.name for file in (path.parents[1] / "out").iterdir()} <= {"figure.png"}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("kind", ["result", "accuracy", "run"])
def test_invalid_files_raise_one_line(kind, broken, file_of, capsys):
    path = file_of(kind)
    path.write_bytes(BROKEN[broken])
    with untouched(path.parents[1]):
        reasons = "is not valid JSON|has the schema|is not what|must be a JSON object|is not the file of a run"
        with pytest.raises(ValueError, match=rf"{path.name}.* ({reasons})"):
            read(path)
        assert fault_of(lambda: read(path)) is None
        assert fault_of_command(command(path), capsys) is None


@pytest.mark.parametrize("kind", ["result", "accuracy", "run"])
def test_folder_instead_of_a_file_raises(kind, file_of, capsys):
    path = file_of(kind)
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        read(path)
    assert fault_of_command(command(path), capsys) is None

"""Two processes over gloo compute the same as one process."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from cnnmod.networks import load
from cnnmod.training.data import open_data
from cnnmod.training.evaluate import evaluate
from cnnmod.training.folder import Run
from cnnmod.training.recipes import recipe
from cnnmod.training.run import run_training
from pictures import cells, streets

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from cnnmod.training.data import open_data
from cnnmod.training.processes import all_processes
assert all_processes().num_processes == int(sys.argv[2])
from cnnmod.training.recipes import recipe
from cnnmod.training.run import Run, run_training
name, data, *changes = sys.argv[3:]
run = Run(recipe=recipe(name, changes), row="mod", seed=0, data=data)
run_training(run, Path(sys.argv[1]), open_data(data, run.recipe))
"""
CHANGES = "epochs=1 warmup_epochs=0 train_images=160 batch_size=32 sync_batch_norm=true validation_fraction=0.2 "
CHANGES += "network_args.layers=[2,2,1,1] "
CHANGES += "learning_rate=0.01"  # small, so that rounding errors do not grow


def trained(folder, processes, name="digits", data="digits", changes=CHANGES):
    if processes == 1:
        run = Run(recipe=recipe(name, changes.split()), row="mod", seed=0, data=data)
        run_training(run, folder / "run", open_data(data, run.recipe))
        return folder / "run"
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [
        sys.executable,
        *launch,
        str(script),
        str(folder / "run"),
        str(processes),
        name,
        str(data),
        *changes.split(),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "run"


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path):
    runs = []
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        runs.append(trained(tmp_path / str(processes), processes))
    lines = [json.loads((run / "metrics.jsonl").read_text().splitlines()[0]) for run in runs]
    assert lines[0]["step"] == lines[1]["step"] == 5
    assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], abs=1e-5)
    states = [load_file(run / "last.safetensors") for run in runs]
    for name, one in states[0].items():
        torch.testing.assert_close(one, states[1][name], rtol=1e-3, atol=1e-4)
    results = [json.loads((run / "result.json").read_text())["accuracy"] for run in runs]
    assert results[0]["images"] == results[1]["images"] == 450  # the last batch is smaller
    assert results[0]["top1_pct"] == pytest.approx(results[1]["top1_pct"], abs=0.5)


SMALL = 'epochs=1 warmup_epochs=0 batch_size=4 network_args.backbone_args={"channels":[8,16,32,64]} config.c=8 '


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "changes"),
    [
        (
            "camvid",
            streets,
            'classes=["road","box"] ignore=9 image_size=[48,64] crop_size=[48,64] sync_batch_norm=true',
        ),
        ("bccd", cells, "image_size=[64,80] network_args.pyramid_channels=8 epochs=3"),
    ],
)
def test_two_processes_evaluate_like_one(name, make, changes, tmp_path):
    data = make(tmp_path / "data", train=12, val=5)
    run = trained(tmp_path, 2, name, data, SMALL + changes)
    score = json.loads((run / "result.json").read_text())["accuracy"]
    opened = open_data(data, recipe(name, (SMALL + changes).split()))
    found = evaluate(load(run / "last.safetensors"), opened.test, opened.num_classes, task=recipe(name).task)
    assert found.images == score["images"] == 5
    assert found.value == pytest.approx(score[found.main], abs=1e-3)

"""Kills of `cnnmod tune` at random moments."""

import json
import multiprocessing
import random
import shutil
import signal
import sys
import time

import pytest

from cnnmod import save
from cnnmod.cli import run
from small import digits_resnet

KILLS = 20
PRELOADED = ["cnnmod.cli", "cnnmod.tuning.tune", "cnnmod.training.data", "cnnmod.report.front", "sklearn.datasets"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_runs_are_resumed_to_the_same_weights_and_plan(tmp_path):
    dense, whole, out = tmp_path / "dense.safetensors", tmp_path / "whole", tmp_path / "out"
    arguments = {"layers": (2, 4, 4, 1), "channels": (16, 32, 64, 128), "in_chans": 1, "num_classes": 10}
    save(digits_resnet(), dense, factory="cnnmod/resnet18_cifar", factory_args=arguments)
    options = f"tune {dense} --data digits --recipe digits --runtime eager --rounds 2 --threads 1 --c 4"
    changes = "--set validation_fraction=0.1 train_images=512"
    context = multiprocessing.get_context("forkserver")  # a process starts in milliseconds, with its imports
    context.set_forkserver_preload(PRELOADED)

    def start(folder, budget=1):
        arguments = f"{options} --budget {budget} --out {folder} {changes}"
        process = context.Process(target=run, args=(arguments.split(),))
        process.start()
        return process

    process = start(tmp_path / "first")  # the server starts
    process.join()
    started = time.monotonic()
    process = start(whole)
    process.join()
    duration = time.monotonic() - started
    assert process.exitcode == 0
    values = json.loads((whole / "times.json").read_text())
    values["saved"] = [{"c=4": 0.05, "narrow c=4": 0.05, "skip": 0.09}] * len(
        values["saved"]
    )  # a plan that the machine does not decide
    values["scale"] = 1.0
    (whole / "times.json").write_text(json.dumps(values))
    process = start(whole, 0.8)
    process.join()
    assert process.exitcode == 0
    generator = random.Random(0)
    kills, saved, stages = 0, [], set()
    while kills < KILLS:
        process = start(out)
        process.join(generator.uniform(0, duration))
        if process.is_alive():
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            kills += 1
            stages.add(tuple(sorted(file.name for file in out.glob("[!.]*"))))
            saved = _measured(out, saved)
        else:
            assert process.exitcode == 0
            saved = _compare(whole, out, saved, start)
            shutil.rmtree(out)
    process = start(out)
    process.join()
    _compare(whole, out, saved, start)
    assert len(stages) >= 2  # the kills hit different stages


def _measured(out, saved):
    """Check that finished measurements are kept, and return those in the folder."""
    times = out / "times.json"
    values = json.loads(times.read_text()) if times.exists() else {"saved": [], "checks": []}
    measured = [*values["saved"], *values["checks"]]
    assert measured[: len(saved)] == saved
    return measured


def _compare(whole, out, saved, start):
    """Check that a resumed folder is that of an uninterrupted run, given the same times and measured plans."""
    _measured(out, saved)
    for name in ("candidates.safetensors", "settings.json", "space.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = (json.loads((folder / "losses.json").read_text()) for folder in (out, whole))
    assert ours | {"plans": []} == theirs | {"plans": []}  # the plans depend on the times
    for name in ("times.json", "losses.json"):
        shutil.copy(whole / name, out / name)
    process = start(out, 0.8)
    process.join()
    assert process.exitcode == 0
    for file in whole.glob("[!.]*"):
        if file.suffix in (".json", ".safetensors"):
            assert (out / file.name).read_bytes() == file.read_bytes(), file.name
    return []

"""Measure the cost of the training loop compared with a bare loop, and of reading Parquet compared with training.

A bare step runs between any two steps of `cnnmod train`, on the same network: forward, backward and optimizer, on
images that are already normalized. Needs CIFAR-10 as Parquet, in ../shared/data or $CNNMOD_DATA, and an idle machine.

    python benchmarks/training_loop.py    # two minutes; writes results/training_loop.json
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cnnmod.measure.results import interquartile_range
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars
from cnnmod.training.data import open_data
from cnnmod.training.folder import Run
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import build_row
from cnnmod.training.run import run_training
from cnnmod.training.step import make_optimizer

RESULT = Path(__file__).parent / "results" / "training_loop.json"
STEPS, WARM_UP = 110, 10


def main() -> None:
    """Measure, and write the result file."""
    place = Path(os.environ.get("CNNMOD_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10"
    if not place.is_dir():
        sys.exit(f"{place} does not exist: set CNNMOD_DATA to the folder that contains cifar10")
    check_writable(RESULT)
    whole = recipe("cifar10_fast")
    started = time.perf_counter()
    open_data(place, whole)
    decoding_s = time.perf_counter() - started

    batch_size, epochs = whole.optimization.batch_size, whole.optimization.epochs
    short = whole.changed([f"train_images={STEPS * batch_size}", "epochs=1", "warmup_epochs=0"])
    data = open_data(place, short)
    bare = _bare_step(short)
    looped_s: list[float] = []
    bare_s: list[float] = []
    left = time.perf_counter()

    def between(what: str, done: int, total: int, rate: str) -> None:
        nonlocal left
        bars(what, done, total, rate)
        looped_s.append(time.perf_counter() - left)
        bare_s.append(bare())
        left = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder, progress_bars() as bars:
        run = Run(recipe=short, row="mod", seed=0, data=str(place))
        run_training(run, Path(folder) / "run", data, progress=between)

    ratios = [one / other for one, other in zip(bare_s[WARM_UP:], looped_s[WARM_UP:], strict=True)]
    images_per_s = batch_size / statistics.median(looped_s[WARM_UP:])
    training_s = epochs * 50_000 / images_per_s
    content = {
        "provenance": dataclasses.asdict(Provenance.now(torch.device("cpu"), torch.get_num_threads())),
        "network": f"{short.networks.network} {short.networks.network_args}, batch {batch_size}",
        "steps": len(ratios),
        "loop_over_bare": round(statistics.median(ratios), 4),
        "loop_over_bare_iqr": round(interquartile_range(ratios), 4),
        "images_per_s": round(images_per_s, 1),
        "parquet_decoding_s": round(decoding_s, 1),
        "parquet_over_memory": round(training_s / (training_s + decoding_s), 4),
    }
    write_whole(RESULT, json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def _bare_step(how: Recipe) -> Callable[[], float]:
    """Return a function that trains a network of its own for one step and returns the time in s."""
    torch.manual_seed(0)
    model = build_row(how, "mod", 10).to(memory_format=torch.channels_last).train()
    optimizer, _ = make_optimizer(model, how, STEPS)
    batch_size, loss = how.optimization.batch_size, how.task.loss(10, torch.device("cpu"))
    size = (batch_size, how.images.in_channels, *how.images.size)
    images = torch.randn(size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch_size,))

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        loss(model, images, labels).backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


if __name__ == "__main__":
    main()

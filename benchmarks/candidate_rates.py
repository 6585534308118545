"""Which learning rate trains the MoD blocks of `cnnmod tune` best?

Each MoD block learns to compute what its dense block computes. After a number of batches, this script measures the
squared error of its output on validation images, divided by the squared error of the identity (a skipped block).

    python benchmarks/candidate_rates.py benchmarks/tuned/cifar100-bottleneck-narrow.json

It needs the stage `dense` of benchmarks/tuned.py. It writes results/candidate_rates.json. Takes about ten minutes on
one core.
"""

import json
import os
import statistics
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import tyro
from pays import DATA, HERE
from torch import Tensor, nn
from tuned import Experiment, Stages

from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.parse import parse
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars
from cnnmod.tuning.candidates import Candidates, train_candidates_
from cnnmod.tuning.images import Split, tuning_images
from cnnmod.tuning.space import find_space

SCHEMA = "cnnmod.candidate_rates/1"


class First:
    """The first batches of a split."""

    def __init__(self, split: Split, count: int) -> None:
        self.split, self.count = split, count

    def __len__(self) -> int:
        return min(self.count, len(self.split))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return islice(iter(self.split), self.count)


def errors(model: nn.Module, candidates: Candidates, images: First) -> dict[str, float]:
    """Return the relative squared error of each label, the mean over its blocks. They take only a feature map."""
    sums: dict[tuple[str, str], list[float]] = {pair: [0.0, 0.0] for pair in candidates.layers}
    inputs: dict[str, Tensor] = {}

    def before(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        inputs[name] = args[0].clone()

    def after(name: str, _: nn.Module, __: Any, target: Tensor) -> None:
        for pair, layer in candidates.layers.items():
            if pair[0] == name:
                sums[pair][0] += float((layer(inputs[name]) - target).square().sum())
                sums[pair][1] += float((inputs[name] - target).square().sum())

    handles: list[Any] = []
    for name in dict.fromkeys(name for name, _ in candidates.layers):
        first, last = model.get_submodule(name), model.get_submodule(candidates.blocks[name].last)
        handles.append(first.register_forward_pre_hook(partial(before, name)))
        handles.append(last.register_forward_hook(partial(after, name)))
    with torch.no_grad():
        for batch, _ in images:
            model(batch)
    for handle in handles:
        handle.remove()
    labels = dict.fromkeys(label for _, label in candidates.layers)
    return {
        label: statistics.mean(error / identity for (_, other), (error, identity) in sums.items() if other == label)
        for label in labels
    }


def main(
    experiment: tyro.conf.Positional[Path],
    rates: tuple[float, ...] = (1e-3, 5e-3, 1e-2, 2e-2),
    batches: int = 150,
    data: Path = DATA / "cifar100",
    runs: Path = HERE / "runs" / "tuned",
    out: Path = HERE / "results",
) -> None:
    """Train the MoD blocks with each learning rate.

    Args:
        experiment: The file of the experiment.
        rates: The learning rates.
        batches: The number of training batches.
        data: The folder of CIFAR-100.
        runs: The folder of the runs.
        out: The folder of the result file.
    """
    file = out.resolve() / "candidate_rates.json"
    check_writable(file)
    stages = Stages(
        parse(Experiment, json.loads(experiment.read_text(encoding="utf-8")), str(experiment)), data.resolve()
    )
    os.chdir((runs / experiment.stem).resolve())
    torch.set_num_threads(1)
    model, example = stages.dense(), stages.example()[:1]
    train, held_out = tuning_images(stages.opened, stages.finetune, model)
    space = find_space(model, stages.configs(), example)
    found: dict[str, dict[str, float]] = {}
    with progress_bars() as bars:
        for rate in rates:
            candidates = Candidates(model, space, example)
            images = First(train, batches)
            train_candidates_(model, candidates, images, passes=1, learning_rate=rate, progress=bars)
            found[str(rate)] = errors(model, candidates, First(held_out, len(held_out)))
    content = {
        "schema": SCHEMA,
        "experiment": experiment.stem,
        "batches": batches,
        "batch_size": stages.finetune.optimization.batch_size,
        "images": len(held_out.images),
        "errors": found,
        "provenance": asdict(Provenance.now(torch.device("cpu"), 1)),
    }
    write_whole(file, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

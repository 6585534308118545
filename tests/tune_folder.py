"""The folder of a finished `cnnmod tune`, with made-up times and losses."""

import functools
from pathlib import Path

import torch

from cnnmod import MoDConfig
from cnnmod.tuning.folder import Settings, TuneFolder
from cnnmod.tuning.losses import Loss, LossTable, MeasuredLoss
from cnnmod.tuning.plans import make_plans
from cnnmod.tuning.space import Space, find_space
from cnnmod.tuning.stored import write_tuned
from cnnmod.tuning.times import TimeCheck, TimeTable
from small import digits_resnet

BUDGETS = (0.9, 0.8, 0.7, 0.6)
PAPER = MoDConfig(c=4, identity_start=True)


class MadeUpMeter:
    """Measures what its table predicts."""

    def __init__(self, table: LossTable) -> None:
        self.table = table

    def measure_plan(self, labels) -> Loss:
        change = self.table.predict(labels)
        dense = self.table.dense if set(labels.values()) == {"keep"} else self.table.normalized
        return Loss(dense.cross_entropy + change.cross_entropy, dense.accuracy_pct + change.accuracy_pct)


@functools.cache
def made_up(mod_cost=0.1, skip_cost=0.3, with_images=True, budget=0.7, model=None, configs=(PAPER,)):
    """Return the plans of a network, in which a MoD block saves 5 % and a skipped block 9 % of the time.

    Args:
        mod_cost: The increase of the cross-entropy for the first MoD block. It grows along the network.
        skip_cost: The same for the first skipped block.
        with_images: Whether there are losses.
        budget: The budget of the chosen plan.
        model: The network. The default is `digits_resnet`.
        configs: Those of the MoD blocks. The blocks of the first one save twice as much as the others, and cost half.
    """
    space = find_space(model or digits_resnet(), configs, torch.rand(1, 1, 8, 8))
    _, first, *others, _ = space.blocks[0].choices
    saved = {first: 0.05, **dict.fromkeys(others, 0.025), "skip": 0.09}
    times = TimeTable(10.0, [saved for _ in space.groups()], [])
    checks = [
        TimeCheck(labels, times.predict(space, labels), 1.01 * times.predict(space, labels))
        for labels in space.random(4, seed=0)
    ]
    times = TimeTable(times.dense_ms, times.saved, checks)
    meter = MadeUpMeter(_losses(space, first, mod_cost, skip_cost)) if with_images else None
    return make_plans(space, "eager", times, meter, budget, BUDGETS)


def write_tune_folder(path, tuned=None):
    """Write the plans as `cnnmod tune` does, and return the folder."""
    tuned = tuned or made_up()
    blocks = {block.name: list(block.choices) for block in tuned.space.blocks}
    folder = TuneFolder(Path(path))
    folder.check(Settings(tuned.space.network, blocks, tuned.runtime, [1, 1, 8, 8], 1, 20))
    folder.write("times", tuned.times)
    if tuned.losses is not None:
        folder.write("losses", tuned.losses)
    write_tuned(tuned, folder)
    return folder.path


def _losses(space: Space, first, mod_cost, skip_cost) -> LossTable:
    cost = {first: mod_cost, "skip": skip_cost}
    alone = {
        block.name: {
            label: Loss(1 + cost.get(label, 2 * mod_cost) * (1 + 0.1 * number), 80 - 10 * cost.get(label, 2 * mod_cost))
            for label in block.choices
            if label != "keep"
        }
        for number, block in enumerate(space.blocks)
    }
    table = LossTable("made up", Loss(1.0, 80.0), Loss(1.0, 80.0), alone)
    for labels in space.random(30, seed=1):
        table.checks.append(MeasuredLoss(labels, Loss(1.1 * table.predict(labels).cross_entropy, 70.0)))
    return table

"""The section of a report about the plan of `tune`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from torch import nn

from cnnmod.measure.experiment import Experiment
from cnnmod.method.plan import plan
from cnnmod.method.trace import example_for
from cnnmod.records.text import TextTable
from cnnmod.report.front import draw_front
from cnnmod.report.page.figures import STYLE, svg
from cnnmod.report.page.sources import Tuning, check_network
from cnnmod.training.rows import build_row
from cnnmod.tuning.result import Tuned, count


@dataclass(frozen=True)
class PlanSection:
    """A plan as sentences, tables and an SVG element, which is `None` for a plan that was made without images."""

    conclusion: str
    blocks: TextTable
    front: TextTable
    figure: str | None
    checks: TextTable
    agreement: list[str]


def plan_section(tuned: Tuned) -> PlanSection:
    """Return the section of a plan."""
    with mpl.rc_context(STYLE):
        description = "Increase of the cross-entropy before fine-tuning over predicted time, for several budgets"
        figure = None if tuned.losses is None else svg(draw_front(tuned), description)
    return PlanSection(
        tuned.conclusion(),
        dataclasses.replace(tuned.block_table(), title="The plan block by block"),
        dataclasses.replace(tuned.front_table(), title="Plans for several budgets, before fine-tuning"),
        figure,
        _check_table(tuned),
        tuned.checks(),
    )


def check_experiment(tuning: Tuning, experiment: Experiment, folder: Path) -> None:
    """Check that an experiment is about the network of a plan.

    Raises:
        ValueError: If a block differs. The message has the first one.
    """
    planned = experiment.recipe.networks.plan
    check_network(tuning, _channels(experiment) if planned is None else planned.channels, folder)


def _channels(experiment: Experiment) -> dict[str, int]:
    """Return the channels of each block of the baseline that can be replaced."""
    model: nn.Module = build_row(experiment.recipe, "baseline", experiment.num_classes, with_weights=False)
    example = example_for(model, experiment.recipe.images.size)
    return {block.name: block.channels for block in plan(model, example=example).blocks if block.position}


def _check_table(tuned: Tuned) -> TextTable:
    rows: list[list[str]] = []
    for number, check in enumerate(tuned.times.checks, 1):
        mod, skipped, kept = count(check.labels)
        times = [f"{check.predicted:.3f}", f"{check.measured:.3f}", f"{check.error_pct:+.1f}"]
        rows.append([f"{number}: {mod} MoD, {skipped} skipped, {kept} kept", *times])
    return TextTable(
        "Predicted and measured times",
        ["combination", "predicted", "measured", "error %"],
        rows,
        ["Random combinations; times as a fraction of the dense network's time."],
    )

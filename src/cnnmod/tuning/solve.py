"""solve: the best combination of choices within a time budget, by an integer program."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from cnnmod.method.choices import SKIP
from cnnmod.records.install import install_hint
from cnnmod.tuning.space import KEEP, Space
from cnnmod.tuning.times import TimeTable

FloatArray = numpy.ndarray[Any, numpy.dtype[numpy.float64]]
Costs = Mapping[str, Mapping[str, float]]  # by the block's name and the label


class BudgetError(ValueError):
    """A budget that no combination meets."""


def check_solver() -> None:
    """Check that SciPy is installed.

    Raises:
        ModuleNotFoundError: If it is not. The message names the command that installs it.
    """
    try:
        importlib.import_module("scipy.optimize")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"tune needs scipy; {install_hint('train')}", name="scipy") from error


def usual_costs(space: Space) -> Costs:
    """Return costs without any measured accuracy: 0 for a block that is kept, 1 for a MoD block, 2 for a skipped block.

    With these costs, few blocks are replaced, and two MoD blocks are preferred to one skipped block.
    """
    return {
        block.name: {label: 0.0 if label == KEEP else 2.0 if label == SKIP else 1.0 for label in block.choices}
        for block in space.blocks
    }


def smallest(space: Space, table: TimeTable) -> float:
    """Return the smallest predicted time of all combinations, as a fraction of the dense network's time."""
    return 1 - sum(max(table.saves(block, label) for label in block.choices) for block in space.blocks)


def solve(space: Space, table: TimeTable, costs: Costs, budget: float, spread: float = 0.0) -> dict[str, str]:
    """Return the label of each block that minimizes the sum of the costs within a budget.

    The sum does not see that the equal blocks of a group can replace each other, but not all be replaced. So with
    `spread`, the n-th replaced block of a group of N blocks costs (2n - 1) / N · `spread` times the mean cost of a
    skipped block in addition. Of several best combinations, the fastest is returned.

    Args:
        space: The blocks and their choices.
        table: Their times.
        costs: The costs of the choices.
        budget: The largest predicted time, as a fraction of the dense network's time.
        spread: How strongly the replaced blocks are spread over the groups.

    Raises:
        BudgetError: If no combination meets the budget. The message has the smallest possible one.
        ModuleNotFoundError: If SciPy is not installed.
    """
    least = smallest(space, table)
    if budget < least:
        raise BudgetError(
            f"the budget {budget:.3f} ({budget * table.dense_ms:.2f} ms) cannot be met; the smallest possible is "
            f"{numpy.ceil(least * 1000) / 1000:.3f} ({numpy.ceil(least * table.dense_ms * 100) / 100:.2f} ms)"
        )
    check_solver()
    from scipy.optimize import Bounds, LinearConstraint, milp

    variables = [(block, label) for block in space.blocks for label in block.choices]
    places = [(number, place, len(group)) for number, group in enumerate(space.groups()) for place in range(len(group))]
    cost = numpy.array([costs[block.name][label] for block, label in variables])
    skipped = numpy.mean([abs(costs[block.name][SKIP]) for block in space.blocks])
    crowding = numpy.array([spread * skipped * (2 * place + 1) / size for _, place, size in places])
    saved = numpy.array([table.saves(block, label) for block, label in variables])
    scale = float(max(numpy.abs(cost).max(), crowding.max())) or 1.0
    tie_breaker = 1e-4 * saved  # far below differences of costs that matter
    one_each = numpy.array([[float(block is other) for block, _ in variables] for other in space.blocks])
    replaced = numpy.array(
        [[float(label != KEEP and block in group) for block, label in variables] for group in space.groups()]
    )
    taken = numpy.array([[float(number == other) for other, _, _ in places] for number in range(len(replaced))])
    solution = milp(
        numpy.concatenate([cost / scale - tie_breaker, crowding / scale]),
        constraints=[
            LinearConstraint(_beside(one_each, places), 1, 1),
            LinearConstraint(_beside(saved[None], places), 1 - budget, numpy.inf),
            LinearConstraint(numpy.hstack([replaced, -taken]), 0, 0),  # the cheapest places are taken first
        ],
        integrality=numpy.concatenate([numpy.ones(len(variables)), numpy.zeros(len(places))]),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if solution.x is None:  # the tolerance of the solver, at the smallest budget
        return {block.name: max(block.choices, key=lambda label: table.saves(block, label)) for block in space.blocks}
    used = solution.x[: len(variables)]
    return {block.name: label for (block, label), value in zip(variables, used, strict=True) if value > 0.5}


def _beside(rows: FloatArray, places: Sequence[object]) -> FloatArray:
    """Return constraints of the choices that do not concern the places."""
    return numpy.hstack([rows, numpy.zeros((len(rows), len(places)))])

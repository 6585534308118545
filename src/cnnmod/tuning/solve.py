"""solve: the best combination of choices within a time budget, by an integer program."""

import importlib
from collections.abc import Mapping

import numpy

from cnnmod.method.choices import SKIP
from cnnmod.records.install import install_hint
from cnnmod.tuning.space import KEEP, Space
from cnnmod.tuning.times import TimeTable

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


def solve(space: Space, table: TimeTable, costs: Costs, budget: float) -> dict[str, str]:
    """Return the label of each block that minimizes the sum of the costs within a budget.

    Of several best combinations, the fastest is returned.

    Args:
        space: The blocks and their choices.
        table: Their times.
        costs: The costs of the choices.
        budget: The largest predicted time, as a fraction of the dense network's time.

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
    cost = numpy.array([costs[block.name][label] for block, label in variables])
    saved = numpy.array([table.saves(block, label) for block, label in variables])
    one_each = numpy.array([[float(block is other) for block, _ in variables] for other in space.blocks])
    size = float(numpy.abs(cost).max()) or 1.0
    tie_breaker = 1e-4 * saved  # far below differences of costs that matter
    solution = milp(
        cost / size - tie_breaker,
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(saved[None], 1 - budget, numpy.inf)],
        integrality=numpy.ones(len(variables)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if solution.x is None:  # the tolerance of the solver, at the smallest budget
        return {block.name: max(block.choices, key=lambda label: table.saves(block, label)) for block in space.blocks}
    return {block.name: label for (block, label), used in zip(variables, solution.x, strict=True) if used > 0.5}

"""make_plans: the best plans for several budgets."""

from collections.abc import Sequence

from cnnmod.tuning.losses import LossTable
from cnnmod.tuning.result import Tuned, TunedPlan
from cnnmod.tuning.solve import smallest, solve, usual_costs
from cnnmod.tuning.space import Space
from cnnmod.tuning.times import TimeTable


def make_plans(
    space: Space,
    runtime: str,
    times: TimeTable,
    losses: LossTable | None,
    budget: float,
    budgets: Sequence[float],
) -> Tuned:
    """Return the best plan within a budget, and the plans for further budgets that can be met.

    Args:
        space: The blocks and their choices.
        runtime: The runtime in which the times were measured.
        times: The times of the choices.
        losses: Their losses. `None` uses `usual_costs`.
        budget: The largest time, as a fraction of the dense network's time.
        budgets: Further budgets.

    Raises:
        BudgetError: If no combination meets the budget. The message has the smallest possible one.
        ModuleNotFoundError: If SciPy is not installed.
    """
    costs = usual_costs(space) if losses is None else losses.costs(space)

    def plan_for(limit: float) -> TunedPlan:
        labels = solve(space, times, costs, limit)
        loss = None if losses is None else losses.predict(labels)
        return TunedPlan(
            limit,
            labels,
            times.predict(space, labels),
            None if loss is None else loss.cross_entropy,
            None if loss is None else loss.accuracy_pct,
        )

    least = smallest(space, times)
    others = {round(value, 6) for value in budgets if value >= least} | {budget}
    front = tuple(map(plan_for, sorted(others, reverse=True)))
    return Tuned(space, runtime, times, losses, plan_for(budget), front)

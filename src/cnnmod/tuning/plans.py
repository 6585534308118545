"""make_plans: the best plans for several budgets."""

from collections.abc import Mapping, Sequence

from cnnmod.records.progress import Progress
from cnnmod.tuning.loss_meter import LossMeter
from cnnmod.tuning.result import Tuned, TunedPlan
from cnnmod.tuning.solve import smallest, solve, usual_costs
from cnnmod.tuning.space import KEEP, Labels, Space
from cnnmod.tuning.times import TimeTable

_SPREADS = (0.0, 0.5, 1.0, 2.0, 4.0)  # each makes a plan for each budget
_USUAL_SPREAD = 1.0  # without images


def make_plans(
    space: Space,
    runtime: str,
    times: TimeTable,
    meter: LossMeter | None,
    budget: float,
    budgets: Sequence[float],
    progress: Progress = lambda description, done, total: None,
) -> Tuned:
    """Return the best plan within a budget, and the plans for further budgets that can be met.

    The integer program makes several plans for each budget, which spread the replaced blocks less or more over the
    network. Each is measured as a whole. A budget gets the plan with the smallest cross-entropy of those that were made
    for it or for a smaller budget. Without images, there is one plan for each budget, with `usual_costs`.

    Args:
        space: The blocks and their choices.
        runtime: The runtime in which the times were measured.
        times: The times of the choices.
        meter: Measures plans. Its choices must be measured. `None` without images.
        budget: The largest time, as a fraction of the dense network's time.
        budgets: Further budgets.
        progress: Called after each measured plan.

    Raises:
        BudgetError: If no combination meets the budget. The message has the smallest possible one.
        FloatingPointError: If a cross-entropy is not finite.
        ModuleNotFoundError: If SciPy is not installed.
    """
    least = smallest(space, times)
    limits = sorted({round(value, 6) for value in budgets if value >= least} | {budget}, reverse=True)
    if meter is None:
        costs = usual_costs(space)
        found = {limit: solve(space, times, costs, limit, _USUAL_SPREAD) for limit in limits}
        front = [TunedPlan(limit, labels, times.predict(space, labels), None, None) for limit, labels in found.items()]
    else:
        costs = meter.table.costs(space)
        solved = [(limit, solve(space, times, costs, limit, spread)) for limit in limits for spread in _SPREADS]
        for done, (_, labels) in enumerate(solved, 1):
            meter.measure_plan(labels)
            progress("accuracy of the plans", done, len(solved))
        front = [
            # made for this budget or a smaller one
            _best(space, times, meter, limit, [labels for other, labels in solved if other <= limit])
            for limit in limits
        ]
    chosen = next(plan for plan in front if plan.budget == budget)
    return Tuned(space, runtime, times, meter and meter.table, chosen, tuple(front))


def _best(
    space: Space, times: TimeTable, meter: LossMeter, limit: float, plans: Sequence[Mapping[str, str]]
) -> TunedPlan:
    """Return the plan with the smallest cross-entropy."""

    def cross_entropy(labels: Labels) -> float:
        return meter.measure_plan(labels).cross_entropy

    labels = min(plans, key=cross_entropy)
    loss, keeps_all = meter.measure_plan(labels), set(labels.values()) == {KEEP}
    dense = meter.table.dense if keeps_all else meter.table.normalized  # new statistics are no effect of the plan
    return TunedPlan(
        limit,
        dict(labels),
        times.predict(space, labels),
        loss.cross_entropy - dense.cross_entropy,
        loss.accuracy_pct - dense.accuracy_pct,
    )

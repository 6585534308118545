"""A figure of the plans of `tune` for several budgets."""

from matplotlib.figure import Figure

from cnnmod.report.figure import ROLES
from cnnmod.tuning.result import Tuned, TunedPlan


def draw_front(tuned: Tuned) -> Figure:
    """Return a figure of the predicted time of each plan and its cross-entropy before fine-tuning.

    The chosen plan has a ring.

    Args:
        tuned: Plans that were made with images.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    plans = sorted(tuned.front, key=lambda plan: plan.time)
    axes.plot([plan.time for plan in plans], [_loss(plan) for plan in plans], "-", color="#888888", lw=1, zorder=1)
    with_mod = [plan for plan in plans if plan.count()[0]]
    without = [plan for plan in plans if plan.count()[1] and not plan.count()[0]]
    for label, role, points in (
        ("dense network", "baseline", [(1.0, 0.0)]),
        ("with MoD blocks", "mod", [(plan.time, _loss(plan)) for plan in with_mod]),
        ("skipped blocks only", "control", [(plan.time, _loss(plan)) for plan in without]),
    ):
        if points:
            marker, color = ROLES[role]
            axes.plot(*zip(*points, strict=True), marker, color=color, ms=8, ls="none", label=label)
    chosen = tuned.chosen
    ring = {"mfc": "none", "mec": "#888888", "mew": 1.5, "ms": 16}
    axes.plot(chosen.time, _loss(chosen), "o", ls="none", label="chosen plan", **ring)
    axes.margins(0.12)
    axes.grid(alpha=0.25)
    axes.set_xlabel(f"predicted time / the dense network's ({tuned.runtime})")
    axes.set_ylabel("increase of cross-entropy before fine-tuning")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _loss(plan: TunedPlan) -> float:
    assert plan.cross_entropy is not None
    return plan.cross_entropy

"""Render what the forms of the MoD block gain for their time: benchmarks/pays.py and benchmarks/ours.sh together."""

import statistics
from typing import Any

from pays_table import interval

from cnnmod.measure.results import Comparison


def returns_table(experiment: dict[str, Any], timings: dict[str, Comparison]) -> str:
    """Return a table with a row for each timed arm.

    The return of an arm is its share of the accuracy between control and dense network, divided by its share of the
    time between them. Going deeper has a return of 1.

    Args:
        experiment: A result file of `pays.py`.
        timings: For each arm, the times of the dense network, the MoD network and the control.
    """
    top1 = {
        arm["arm"]: [run["accuracy"]["top1_pct"] for run in arm["results"]]
        for arm in experiment["arms"]
        if arm["results"]
    }
    conditions = next(iter(timings.values())).conditions
    gap = statistics.mean(top1["dense"]) - statistics.mean(top1["control"])
    titles = [
        "arm",
        "gain, points",
        "share of the gap, %",
        *(f"{runtime}, batch {size}" for runtime, size in conditions),
    ]
    lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
    for arm, comparison in timings.items():
        gain = statistics.mean(top1[arm]) - statistics.mean(top1["control"])
        half = interval(top1[arm], top1["control"])
        cells = [arm, f"{gain:+.2f} ±{half:.2f}", f"{100 * gain / gap:.0f}"]
        mod = next(row for row in comparison.rows if row.role == "mod")
        for condition in conditions:
            tax = comparison.mod_tax(mod, *condition)
            dense_over_control = comparison.speedup(comparison.control_of(mod), *condition) - 1
            factor = dense_over_control / tax / gap
            cells.append(f"{100 * tax:+.1f} %: {gain * factor:.1f} ±{half * factor:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    first = next(iter(timings.values()))
    machine, mod = first.provenance, next(row for row in first.rows if row.role == "mod")
    overheads = [f"{100 * (first.speedup(first.control_of(mod), *condition) - 1):.0f} %" for condition in conditions]
    lines.append(
        f"\nMoD tax and return ± half of the 95 % interval of the gain; the gap between dense network and control is "
        f"{gap:.2f} points and {', '.join(overheads)} of the control's time; "
        f"{' × '.join(map(str, first.image_shape[1:]))} pixels; {machine.processor}, {machine.threads} threads, "
        f"torch {machine.versions['torch']}; medians of {len(mod.measurements[0].times_ms)} interleaved rounds."
    )
    return "\n".join(lines)

"""Render what each arm of an experiment gains for its time: the results of pays.py and prices.py together."""

import statistics
from typing import Any

from cnnmod.report.difference import half_interval


def returns_table(experiment: dict[str, Any], prices: dict[str, Any]) -> str:
    """Return a table with a row for each arm that ran at least twice and was timed.

    The return of an arm is its share of the accuracy between control and dense network, divided by its share of the
    time between them. Going deeper has a return of 1.

    Args:
        experiment: A result file of `pays.py`.
        prices: The result file of `prices.py` for the same experiment.
    """
    top1 = {arm["arm"]: [run["accuracy"]["top1_pct"] for run in arm["results"]] for arm in experiment["arms"]}
    conditions = [(one["runtime"], one["batch_size"], _over_control(one["times_ms"])) for one in prices["conditions"]]
    gap = statistics.mean(top1["dense"]) - statistics.mean(top1["control"])
    titles = ["arm", "gain, points", *(f"{runtime}, batch {size}" for runtime, size, _ in conditions)]
    lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
    for arm, values in top1.items():
        if arm in ("dense", "control") or len(values) < 2:
            continue
        if not all(arm in overhead for _, _, overhead in conditions):
            continue
        gain, half = statistics.mean(values) - statistics.mean(top1["control"]), half_interval(values, top1["control"])
        cells = [arm, f"{gain:+.2f} ±{half:.2f}"]
        for _, _, overhead in conditions:
            factor = overhead["dense"] / overhead[arm] / gap
            cells.append(f"{100 * overhead[arm]:+.0f} %: {gain * factor:.1f} ±{abs(half * factor):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    machine, rounds = prices["provenance"], len(next(iter(prices["conditions"][0]["times_ms"].values())))
    dense = ", ".join(f"{100 * overhead['dense']:+.0f} %" for _, _, overhead in conditions)
    size = " × ".join(map(str, prices["size"]))
    lines.append(
        "\nTime over the control and return, ± half of the 95 % interval of the gain. The dense network: "
        f"{gap:+.2f} points and {dense}. {about_changes(prices)}{size} pixels; {machine['processor']}, "
        f"{machine['threads']} threads, torch {machine['versions']['torch']}; medians of {rounds} interleaved rounds."
    )
    return "\n".join(lines)


def about_changes(prices: dict[str, Any]) -> str:
    """Return a sentence if the timed networks are not those that were trained."""
    changes = prices.get("changes")
    return f"The times are of larger networks, with {', '.join(changes)}; the accuracies are not. " if changes else ""


def _over_control(times_ms: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of time(arm) / time(control) - 1 of each arm."""
    control = times_ms["control"]
    return {
        arm: statistics.median(time / other for time, other in zip(times, control, strict=True)) - 1
        for arm, times in times_ms.items()
    }

"""Render the results of tuned.py as a table."""

import statistics
from typing import Any

from cnnmod.report.difference import half_interval


def tuned_table(result: dict[str, Any]) -> str:
    """Return a table with a row for each arm: its measured time, its accuracy, and its difference from the plan of
    `tune` for the same budget. `uniform` and `control` are compared with the plan whose time is nearest.

    Args:
        result: A result file of tuned.py.
    """
    arms = result["arms"]
    time = {name: _time(arm, arms["dense"]) for name, arm in arms.items()}
    lines = ["| arm | MoD blocks | skipped | predicted time | time | n | top-1 % | tune over it |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, arm in arms.items():
        labels = list(arm.get("labels", {}).values())
        skipped, kept = labels.count("skip"), labels.count("keep")
        blocks = [str(len(labels) - skipped - kept), str(skipped)] if labels else ["", ""]
        predicted = f"{arm['predicted']:.3f}" if labels else ""
        cells = [name, *blocks, predicted, f"{time[name]:.3f}", str(len(arm["top1_pct"])), _mean(arm["top1_pct"])]
        plan = _plan_for(name, time)
        if plan is None or not (arm["top1_pct"] and arms[plan]["top1_pct"]):
            cells.append("")
        elif arms[plan]["same_as"] == name:
            cells.append("the same network")
        else:
            cells.append(f"{_difference(arms[plan]['top1_pct'], arm['top1_pct'])} ({plan})")
        lines.append(f"| {' | '.join(cells)} |")
    machine, experiment = result["provenance"], result["experiment"]
    pairs = [(arm["predicted"], time[name]) for name, arm in arms.items() if "predicted" in arm]
    error = max(abs(predicted / measured - 1) for predicted, measured in pairs)
    lines.append(
        "\nTop-1 on the 10,000 test images of CIFAR-100 after one epoch of fine-tuning, mean ± standard deviation of n "
        "seeds; differences ± half of the 95 % interval (Welch's t). The dense network before it: "
        f"{result['dense']['accuracy']['top1_pct']:.2f} %. Times are those of {experiment['runtime']} for "
        f"{experiment['batch']} images, as fractions of the dense network's; {machine['processor']}, "
        f"{machine['threads']} thread, torch {machine['versions']['torch']}; medians of {experiment['rounds']} "
        f"interleaved rounds. Largest error of the predicted times: {100 * error:.1f} %. Rank correlation of predicted "
        f"and measured cross-entropy of {len(result['loss_checks'])} random combinations: "
        f"{result['rank_correlation']:.2f}."
    )
    return "\n".join(lines)


def _plan_for(name: str, time: dict[str, float]) -> str | None:
    """Return the plan of `tune` that an arm is compared with."""
    kind, _, budget = name.partition("-")
    if kind in ("tune", "dense"):
        return None
    if budget:
        return f"tune-{budget}"
    return min((plan for plan in time if plan.startswith("tune-")), key=lambda plan: abs(time[plan] - time[name]))


def _time(arm: dict[str, Any], dense: dict[str, Any]) -> float:
    return statistics.median(one / other for one, other in zip(arm["times_ms"], dense["times_ms"], strict=True))


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else ""
    return f"{statistics.mean(values):.2f} ±{statistics.stdev(values):.2f}"


def _difference(values: list[float], others: list[float]) -> str:
    difference = f"{statistics.mean(values) - statistics.mean(others):+.2f}"
    if min(len(values), len(others)) < 2:
        return difference
    return f"{difference} ±{half_interval(values, others):.2f}"

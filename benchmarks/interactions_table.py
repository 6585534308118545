"""Render the results of interactions.py as a table."""

from typing import Any

from scipy.stats import spearmanr

MEASUREMENTS = {
    "sum": "the sum of the increases of single choices",
    "sum_normalized": "the same, batch norms measured again",
    "whole": "the whole plan",
    "normalized": "the whole plan, batch norms measured again",
    "short": "the whole plan, batch norms measured again, and 40 batches of fine-tuning",
}


def interactions_table(result: dict[str, Any]) -> str:
    """Return a table with the rank correlation of each measurement and the accuracy after fine-tuning.

    Args:
        result: A result file of interactions.py.
    """
    plans = list(result["plans"].values())
    accuracies = [plan["top1_pct"] for plan in plans]
    lines = ["| cross-entropy on validation images of | rank correlation with the accuracy |", "|---|---:|"]
    for name, text in MEASUREMENTS.items():
        correlation: Any = spearmanr([-plan[name] for plan in plans], accuracies)
        lines.append(f"| {text} | {correlation.statistic:.2f} |")
    times = [plan["time"] for plan in plans]
    lines.append(
        f"\n{len(plans)} plans that take {min(times):.2f} to {max(times):.2f} of the dense network's time: one of "
        f"`tune`, alternate blocks left out, and random ones. Top-1 from {min(accuracies):.1f} to "
        f"{max(accuracies):.1f} % after one epoch of fine-tuning, one seed. Batch norms: 2,560 training images; "
        "`tune` itself uses 512."
    )
    return "\n".join(lines)

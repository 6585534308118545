"""Render the result of benchmarks/pays.py: each arm, compared with the control and with its static twin."""

import statistics
from typing import Any

from cnnmod.report.difference import difference_text


def pays_table(result: dict[str, Any]) -> str:
    """Return a table with a row for each arm that ran; differences have half of their 95 % interval (Welch's t).

    If the results have it, the last column is the mean decrease of the accuracy when each image gets the selection of
    another image.
    """
    arms = {arm["arm"]: [run["accuracy"] for run in arm["results"]] for arm in result["arms"]}
    top1 = {arm: [run["top1_pct"] for run in runs] for arm, runs in arms.items()}
    loss = {arm: [run["loss"] for run in runs] for arm, runs in arms.items()}
    worth = {
        arm["arm"]: [(run.get("worth") or {}).get("exchanged") for run in arm["results"]] for arm in result["arms"]
    }
    has_worth = any(run for runs in worth.values() for run in runs)
    titles = ["arm", "n", "top-1 %", "over control", "over its static twin", "test loss over control"]
    titles += ["selection exchanged"] if has_worth else []
    lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
    for arm in result["arms"]:
        name, twin = arm["arm"], arm["twin"]
        if not top1[name]:
            continue
        spread = f" ±{statistics.stdev(top1[name]):.2f}" if len(top1[name]) > 1 else ""
        cells = [name, str(len(top1[name])), f"{statistics.mean(top1[name]):.2f}{spread}"]
        cells.append("" if name == "control" else difference(top1[name], top1["control"], 2))
        cells.append(difference(top1[name], top1[twin], 2) if twin else "")
        cells.append("" if name == "control" else difference(loss[name], loss["control"], 3))
        if has_worth:
            points = [-run["points"] for run in worth[name] if run]
            spread = f" ±{statistics.stdev(points):.2f}" if len(points) > 1 else ""
            cells.append(f"{statistics.mean(points):+.2f}{spread}" if points else "")
        lines.append(f"| {' | '.join(cells)} |")
    provenance, images = result["provenance"], next(runs for runs in arms.values() if runs)[0]["images"]
    lines.append(
        f"\nTop-1 on {images:,} test images of {result['plan']['data']}, mean ± standard deviation of n runs; "
        f"differences ± half of the 95 % interval (Welch's t); {provenance['device']}, "
        f"torch {provenance['versions']['torch']}. "
        f"Recipe: {result['plan']['recipe']} with {', '.join(result['plan']['changes'])}."
    )
    return "\n".join(lines)


def difference(one: list[float], other: list[float], digits: int) -> str:
    """Return the difference of the means, or nothing if an arm did not run."""
    return difference_text(one, other, digits) if one and other else ""

"""Render the result of benchmarks/pays.py: each arm, compared with the control and with its static twin."""

import statistics
from typing import Any

from cnnmod.report.difference import difference_text

TITLES = {"top1_pct": "top-1", "miou_pct": "mean IoU", "ap50_voc07_pct": "AP50"}


def pays_table(result: dict[str, Any]) -> str:
    """Return a table with a row for each arm that ran; differences have half of their 95 % interval (Welch's t).

    The accuracy is the first measure of the task. If the results have it, the last column is the mean decrease of the
    accuracy when each image gets the selection of another image.
    """
    arms = {arm["arm"]: [run["accuracy"] for run in arm["results"]] for arm in result["arms"]}
    first = next(runs for runs in arms.values() if runs)[0]
    measure = next(iter(first))
    accuracy = {arm: [run[measure] for run in runs] for arm, runs in arms.items()}
    loss = {arm: [run["loss"] for run in runs if "loss" in run] for arm, runs in arms.items()}
    has_loss = any(loss.values())
    worth = {
        arm["arm"]: [(run.get("worth") or {}).get("exchanged") for run in arm["results"]] for arm in result["arms"]
    }
    has_worth = any(run for runs in worth.values() for run in runs)
    has_twins = any(arm["twin"] for arm in result["arms"])
    titles = ["arm", "n", f"{TITLES[measure]} %", "over control"]
    titles += ["over its static twin"] if has_twins else []
    titles += ["test loss over control"] if has_loss else []
    titles += ["selection exchanged"] if has_worth else []
    lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
    for arm in result["arms"]:
        name, twin = arm["arm"], arm["twin"]
        if not accuracy[name]:
            continue
        spread = f" ±{statistics.stdev(accuracy[name]):.2f}" if len(accuracy[name]) > 1 else ""
        cells = [name, str(len(accuracy[name])), f"{statistics.mean(accuracy[name]):.2f}{spread}"]
        cells.append("" if name == "control" else difference(accuracy[name], accuracy["control"], 2))
        if has_twins:
            cells.append(difference(accuracy[name], accuracy[twin], 2) if twin else "")
        if has_loss:
            cells.append("" if name == "control" else difference(loss[name], loss["control"], 3))
        if has_worth:
            points = [-run["points"] for run in worth[name] if run]
            spread = f" ±{statistics.stdev(points):.2f}" if len(points) > 1 else ""
            cells.append(f"{statistics.mean(points):+.2f}{spread}" if points else "")
        lines.append(f"| {' | '.join(cells)} |")
    provenance, images = result["provenance"], first["images"]
    title = TITLES[measure][0].upper() + TITLES[measure][1:]
    lines.append(
        f"\n{title} on {images:,} test images of {result['plan']['data']}, mean ± standard deviation of n runs; "
        f"differences ± half of the 95 % interval (Welch's t); {provenance['device']}, "
        f"torch {provenance['versions']['torch']}. "
        f"Recipe: {result['plan']['recipe']} with {', '.join(result['plan']['changes'])}."
    )
    return "\n".join(lines)


def difference(one: list[float], other: list[float], digits: int) -> str:
    """Return the difference of the means, or nothing if an arm did not run."""
    return difference_text(one, other, digits) if one and other else ""

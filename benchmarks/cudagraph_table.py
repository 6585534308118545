"""Render results/resnets-cudagraph.json: CUDA graphs of networks whose MoD blocks were Triton kernels or operators."""

import statistics
from typing import Any


def cudagraph_table(result: dict[str, Any]) -> str:
    """Return a table with a row for each network and form, and a column for each batch size."""
    batches = list(dict.fromkeys(row["batch"] for row in result["measurements"]))
    times = {(row["network"], row["batch"]): row["times_ms"] for row in result["measurements"]}
    header = ["network", *(f"batch {batch}: ms" for batch in batches), *("speed-up" for _ in batches)]
    lines = [f"| {' | '.join(header)} |", f"|---{'|---:' * (len(header) - 1)}|"]
    for name in dict.fromkeys(row["network"] for row in result["measurements"]):
        measured = [times[name, batch] for batch in batches]
        ratios = [
            statistics.median(dense / own for dense, own in zip(times["resnet50", batch], of_batch, strict=True))
            for batch, of_batch in zip(batches, measured, strict=True)
        ]
        cells = [
            *(f"{statistics.median(of_batch):.3f}" for of_batch in measured),
            *(f"{ratio:.2f}" for ratio in ratios),
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    provenance = result["provenance"]
    rounds = len(result["measurements"][0]["times_ms"])
    lines.append(
        f"\nReplays of a CUDA graph, 3×224×224, bfloat16, channels last; {provenance['device']}, torch "
        f"{provenance['versions']['torch']}; medians of {rounds} interleaved rounds."
    )
    return "\n".join(lines)

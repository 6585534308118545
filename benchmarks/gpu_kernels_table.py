"""The table of gpu-kernels.json."""

from typing import Any


def gpu_kernels_table(result: dict[str, Any]) -> str:
    """Return a row for each form and batch size, with the durations of the kernels of each MoD block."""
    lines = ["| form | batch | µs of each MoD block | sum, µs |", "|---|---:|---|---:|"]
    for row in result["rows"]:
        blocks, pooled = list[str](), ""
        for name, us in row["kernels"]:
            if name == "pool":
                pooled = f"{us:g} + "
            else:
                blocks.append(f"{pooled}{us:g}")
                pooled = ""
        total = sum(us for _, us in row["kernels"])
        lines.append(f"| {row['form'] or 'paper'} | {row['batch']} | {', '.join(blocks)} | {total:.0f} |")
    provenance = result["provenance"]
    lines.append(
        f"\nDurations of `mod_block`, or of `pool` + `mod_block`, in ResNet75-MoD; bfloat16, channels last; "
        f"{provenance['device']}, torch {provenance['versions']['torch']}."
    )
    return "\n".join(lines)

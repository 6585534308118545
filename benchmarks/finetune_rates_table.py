"""The table of finetune_rates.json."""

import statistics
from typing import Any


def finetune_rates_table(result: dict[str, Any]) -> str:
    """Return a row for the control and for each learning rate, with a value for each seed."""
    by_scale: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        name = "control" if row["row"] == "control" else f"MoD, `mod_lr_scale={row['mod_lr_scale']:g}`"
        by_scale.setdefault(name, []).append(row)
    controls = {row["seed"]: row["validation_losses"] for row in by_scale["control"]}
    lines = [
        "| network | top-1 % | largest gain | difference of the validation loss to the control |",
        "|---|---:|---:|---:|",
    ]
    for name, rows in by_scale.items():
        cells = [name, " / ".join(f"{row['top1_pct']:.2f}" for row in rows), "", ""]
        if name != "control":
            differences = [
                statistics.mean(
                    abs(loss - control)
                    for loss, control in zip(row["validation_losses"], controls[row["seed"]], strict=True)
                )
                for row in rows
            ]
            cells[2] = " / ".join(f"{row['largest_gain']:.3f}" for row in rows)
            cells[3] = " / ".join(f"{difference:.4f}" for difference in differences)
        lines.append(f"| {' | '.join(cells)} |")
    lowest = min(min(losses) for losses in controls.values())
    epochs = len(next(iter(controls.values())))
    trained_on, versions = result["recipe"]["trained_on"], result["provenance"]["versions"]
    lines.append(
        f"\nSeed {' / '.join(map(str, controls))}; a small ResNet, trained on {trained_on:,} images of CIFAR-10 and "
        f"fine-tuned on {result['folder_images']:,} other images for {epochs} epochs; top-1 on "
        f"{result['test_images']:,} test images; the difference is the mean of its absolute value over the epochs, "
        f"where the control's lowest validation loss is {lowest:.2f}; torch {versions['torch']}."
    )
    return "\n".join(lines)

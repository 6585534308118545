"""The table of the accuracies of an experiment."""

import dataclasses
import statistics

from cnnmod.measure.experiment import Experiment, RowResult
from cnnmod.records.text import TextTable
from cnnmod.report.difference import difference_text
from cnnmod.training.classes import name_classes


def experiment_table(first: Experiment, *others: Experiment) -> TextTable:
    """Return the table of the accuracies of baseline, MoD network and control, followed by other MoD networks.

    Args:
        first: The experiment with the control and the MoD network that all rows are compared with.
        others: Experiments that differ from the first only in the MoD config. Their rows are named after this change.

    Raises:
        ValueError: If an experiment differs from the first in more than the MoD config.
    """
    for other in others:
        networks = dataclasses.replace(other.recipe.networks, config=first.recipe.networks.config)
        recipe = dataclasses.replace(other.recipe, networks=networks)
        if (recipe, other.data, other.train_images) != (first.recipe, first.data, first.train_images):
            raise ValueError(f"{other.name!r} differs from {first.name!r} in more than the MoD config")
    labeled = [(row.row, row) for row in first.rows]
    labeled += [(other.name.removeprefix(f"{first.name}, "), row) for other in others for row in other.rows]
    control, mod = first.row("control"), first.row("mod")
    rows: list[list[str]] = []
    for label, row in labeled:
        std = "" if row.std_pct is None else f" ±{row.std_pct:.2f}"
        seconds = statistics.mean(result.seconds for result in row.results)
        parameters = f"{row.results[0].parameters / 1e6:.3f}"
        cells = [label, parameters, f"{row.mean_pct:.2f}{std}", _difference(row, control)]
        rows.append([*cells, *([_difference(row, mod)] if others else []), str(len(row.results)), f"{seconds:.0f}"])
    accuracy, provenance = first.rows[0].results[0].accuracy, first.provenance
    notes = [
        f"{first.measure} on {accuracy.images:,} test images of {first.data}, mean ± standard deviation of n runs; "
        f"differences ± half of the 95 % interval (Welch's t); {first.train_images:,} training images, "
        f"{first.recipe.optimization.epochs} epochs; {provenance.machine}; torch {provenance.versions['torch']}."
    ]
    worths = [
        f"{label}, seed {seed}: {result.worth}."
        for label, row in labeled
        for seed, result in zip(row.seeds, row.results, strict=True)
        if result.worth is not None
    ]
    notes += worths
    if accuracy.absent_classes:
        notes.append(f"Classes that the test set does not have: {name_classes(accuracy.absent_classes, None)}.")
    over = ["over control", *(["over mod"] if others else [])]
    return TextTable(
        first.name, ["network", "params M", f"{first.measure} {accuracy.unit}", *over, "n", "s per run"], rows, notes
    )


def _difference(row: RowResult, other: RowResult | None) -> str:
    """Return the difference of the mean accuracies in points, with half of its 95 % interval."""
    if other is None or row is other:
        return ""
    return difference_text(row.each_pct, other.each_pct)

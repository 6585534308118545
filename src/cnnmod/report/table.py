"""Tables of comparisons, experiments, selections and networks, for the terminal and for markdown."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from cnnmod.measure.results import Comparison, interquartile_range
from cnnmod.records.text import TextTable

if TYPE_CHECKING:  # the packages for training are not needed for the tables of a comparison
    from cnnmod.measure.selection import Selection
    from cnnmod.training.scores import Score

_LONG_NAME = 30


def rich_table(table: TextTable) -> Table:
    """Return a table for the terminal. The first column is aligned to the left, the other columns to the right."""
    shown = Table(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    shown.caption, shown.caption_justify = "\n".join(table.notes), "left"
    wraps_names = any(len(row[0]) > _LONG_NAME for row in table.rows)  # else the other columns may wrap
    for column, name in enumerate(table.header):
        shown.add_column(name, justify="right" if column else "left", no_wrap=bool(column) == wraps_names)
    for row in table.rows:
        shown.add_row(*row)
    return shown


def comparison_table(comparison: Comparison) -> TextTable:
    """Return the table of a comparison, with a row for each network and condition."""
    with_accuracy = comparison.accuracy_source is not None
    with_runtime = any(runtime != "eager" for runtime, _ in comparison.conditions)
    rows: list[list[str]] = []
    for runtime, batch_size in comparison.conditions:
        for row in comparison.rows:
            measurement = comparison.measurement(row, runtime, batch_size)
            cells = ["└ control" if row.role == "control" else row.name, f"{batch_size}"]
            cells += [f"{row.parameters / 1e6:.2f}", f"{row.gmacs:.3f}"]
            if with_accuracy:
                cells.append("" if row.accuracy_pct is None else f"{row.accuracy_pct:.2f}")
            cells.append(f"{measurement.median_ms:.1f}")
            speedups = comparison.speedups(row, runtime, batch_size)
            cells.append("1" if row.role == "baseline" else _spread(speedups, "{:.2f}"))
            taxes = comparison.mod_taxes(row, runtime, batch_size) if row.role == "mod" else []
            cells.append(_spread([100 * tax for tax in taxes], "{:+.1f}") if taxes else "")
            cells.append("" if measurement.peak_memory_mib is None else f"{measurement.peak_memory_mib:.0f}")
            rows.append([cells[0], runtime, cells[1], *cells[4:-1]] if with_runtime else cells)
    accuracy = ["score %"] if with_accuracy else []
    header = ["network", "batch", "params M", "GMACs", *accuracy, "ms", "speed-up", "MoD tax %", "peak MiB"]
    if with_runtime:
        header = [header[0], "runtime", header[1], *header[4:-1]]
    provenance = comparison.provenance
    conditions = [
        provenance.machine,
        f"torch {provenance.versions['torch']}",
        f"{comparison.dtype}, {'channels last' if comparison.channels_last else 'channels first'}",
        f"medians of {len(comparison.rows[0].measurements[0].times_ms)} interleaved rounds ± half of the IQR",
    ]
    size = "×".join(map(str, comparison.image_shape))
    notes = [f"{'; '.join(conditions)}."]
    if with_accuracy:
        notes.append(f"Score: {comparison.accuracy_source}.")
    return TextTable(
        f"{'Training step' if comparison.step == 'training' else 'Inference'}, {size}", header, rows, notes
    )


def _spread(values: list[float], template: str) -> str:
    """Return the median and half of the interquartile range, as text."""
    half = interquartile_range(values) / 2
    return f"{template.format(statistics.median(values))} ±{template.format(half).lstrip('+')}"


def selection_table(of: Path, selections: "Sequence[Selection]") -> TextTable:
    """Return the table of what each MoD block selects. Entropy 0 and 100 % mean that the selector has collapsed."""
    rows = [
        [
            selection.block,
            f"{selection.channels}",
            f"{selection.k}",
            f"{selection.entropy:.3f}",
            f"{100 * selection.most_selected_share:.1f}",
        ]
        for selection in selections
    ]
    notes = [
        f"Over {sum(selections[0].images):,} images. Entropy of the selected channels: 0 if always the same k are "
        "selected, 1 if all are selected equally often. Same k: the share of images that select exactly the k most "
        "selected channels.",
    ]
    return TextTable(str(of), ["MoD block", "C", "k", "entropy", "same k, %"], rows, notes)


def accuracy_text(score: "Score", of: Path, classes: Sequence[str] | None = None) -> str:
    """Return a score as one line of text. It names the classes that were not tested."""
    from cnnmod.training.classes import name_classes

    broken = f"; {score.broken} could not be read" if score.broken else ""
    absent = (
        f"; no test {score.counted} belongs to {name_classes(score.absent_classes, classes)}"
        if score.absent_classes
        else ""
    )
    return f"{of}: {score.summary()} of {score.images:,} test images{broken}{absent}"


def recipe_table() -> Table:
    """Return the table of the recipes and their descriptions."""
    from cnnmod.training.recipes import RECIPES

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("description")
    for name, recipe in RECIPES.items():
        table.add_row(name, " ".join((recipe.__doc__ or "").split()))
    return table

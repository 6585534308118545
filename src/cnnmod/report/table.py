"""Tables of comparisons, experiments, selections and networks, for the terminal and for markdown."""

import dataclasses
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from torch import Tensor, nn

from cnnmod.measure.count import count_modules
from cnnmod.measure.experiment import Experiment, RowResult
from cnnmod.measure.results import Comparison, interquartile_range
from cnnmod.measure.selection import Selection
from cnnmod.method.convert import mod_blocks
from cnnmod.method.discover import find_modules
from cnnmod.method.plan import PlannedBlock, plan
from cnnmod.networks.paper import paper_rows
from cnnmod.report.difference import difference_text
from cnnmod.training.classes import name_classes
from cnnmod.training.recipes import RECIPES
from cnnmod.training.scores import Score

_LONG_NAME = 30


@dataclass(frozen=True)
class Cells:
    """A table of text cells. The first column is aligned to the left, the other columns to the right."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]

    def rich(self) -> Table:
        """Return the table for the terminal."""
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        table.caption, table.caption_justify = "\n".join(self.notes), "left"
        wraps_names = any(len(row[0]) > _LONG_NAME for row in self.rows)  # else the other columns may wrap
        for column, name in enumerate(self.header):
            table.add_column(name, justify="right" if column else "left", no_wrap=bool(column) == wraps_names)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return the table in markdown, for the README and the docs."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in [self.header, rule, *self.rows]]
        return "\n".join([f"**{self.title}**", "", *lines, "", *self.notes])


def comparison_cells(comparison: Comparison) -> Cells:
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
        f"{provenance.device} ({provenance.processor}), {_threads(provenance.threads)}",
        f"torch {provenance.versions['torch']}",
        f"{comparison.dtype}, {'channels last' if comparison.channels_last else 'channels first'}",
        f"medians of {len(comparison.rows[0].measurements[0].times_ms)} interleaved rounds ± half of the IQR",
    ]
    size = "×".join(map(str, comparison.image_shape))
    notes = [f"{'; '.join(conditions)}."]
    if with_accuracy:
        notes.append(f"Score: {comparison.accuracy_source}.")
    return Cells(f"{'Training step' if comparison.step == 'training' else 'Inference'}, {size}", header, rows, notes)


def _threads(count: int) -> str:
    return f"{count} {'thread' if count == 1 else 'threads'}"


def _spread(values: list[float], template: str) -> str:
    """Return the median and half of the interquartile range, as text."""
    half = interquartile_range(values) / 2
    return f"{template.format(statistics.median(values))} ±{template.format(half).lstrip('+')}"


def experiment_cells(first: Experiment, *others: Experiment) -> Cells:
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
        f"{first.recipe.optimization.epochs} epochs; {provenance.device} ({provenance.processor}), "
        f"{_threads(provenance.threads)}; torch {provenance.versions['torch']}."
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
    return Cells(
        first.name, ["network", "params M", f"{first.measure} {accuracy.unit}", *over, "n", "s per run"], rows, notes
    )


def _difference(row: RowResult, other: RowResult | None) -> str:
    """Return the difference of the mean accuracies in points, with half of its 95 % interval."""
    if other is None or row is other:
        return ""
    return difference_text(row.each_pct, other.each_pct)


def selection_cells(of: Path, selections: Sequence[Selection]) -> Cells:
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
    return Cells(str(of), ["MoD block", "C", "k", "entropy", "same k, %"], rows, notes)


def accuracy_text(score: Score, of: Path, classes: Sequence[str] | None = None) -> str:
    """Return a score as one line of text. It names the classes that were not tested."""
    broken = f"; {score.broken} could not be read" if score.broken else ""
    absent = (
        f"; no test {score.counted} belongs to {name_classes(score.absent_classes, classes)}"
        if score.absent_classes
        else ""
    )
    return f"{of}: {score.summary()} of {score.images:,} test images{broken}{absent}"


def recipe_table() -> Table:
    """Return the table of the recipes and their descriptions."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("description")
    for name, recipe in RECIPES.items():
        table.add_row(name, " ".join((recipe.__doc__ or "").split()))
    return table


def network_cells(name: str, model: nn.Module, example: Tensor | None = None) -> Cells:
    """Return the table of a network's blocks: kind, C, k, parameters and MACs, with the paper's figures.

    For a dense network, the column "kind" shows which blocks `convert_` would replace.
    """
    sizes = count_modules(model, example)
    mod = mod_blocks(model)
    notes = ["MMACs: 10⁶ multiply-adds of convolutions and linear layers, one image."]
    modules: list[list[str]] = []
    planned: dict[str, PlannedBlock] = {}
    try:
        if mod:
            modules = find_modules(model, example)
            listed = {block for names in modules for block in names}
            modules += [[part] for part in mod if part not in listed]  # parts of larger blocks
        else:
            conversion = plan(model, example=example)
            planned = {block.name: block for block in conversion.blocks}
            groups = itertools.groupby(conversion.blocks, lambda block: block.module)
            modules = [[block.name for block in blocks] for _, blocks in groups]
            notes.append(
                f"→ MoD: cnnmod.convert_ replaces this block, c = {conversion.c}; parameters and MMACs are before "
                "conversion."
            )
            refused = {block.kind: block for block in reversed(conversion.blocks) if block.chosen and block.k is None}
            notes += [
                f"{class_name} stays a standard block at {b.name}: {b.reason}." for class_name, b in refused.items()
            ]
    except ValueError as error:  # the network has no modules; counting shows that it runs
        notes.append(f"{error}.")
    rows: list[list[str]] = []
    for index, names in enumerate(modules):
        for block in names:
            cells = ["standard", "", ""]
            if block in mod:
                cells = ["MoD", str(mod[block].channels), str(mod[block].k)]
            elif block in planned and planned[block].k is not None:
                cells = ["→ MoD", str(planned[block].channels), str(planned[block].k)]
            size = sizes[block]
            rows.append([block, str(index), *cells, f"{size.parameters:,}", f"{size.gmacs * 1e3:,.2f}"])
    total = sizes[""]
    blocks = [sizes[block] for names in modules for block in names]
    rest_parameters = total.parameters - sum(size.parameters for size in blocks)
    rest_gmacs = total.gmacs - sum(size.gmacs for size in blocks)
    rows.append(["stem, head, …", "", "", "", "", f"{rest_parameters:,}", f"{rest_gmacs * 1e3:,.2f}"])
    rows.append(["total", "", f"{len(mod)} MoD", "", "", f"{total.parameters:,}", f"{total.gmacs * 1e3:,.2f}"])
    if paper := paper_rows().get(name):
        millions, mmacs = f"{paper.parameters_m:.2f} M", f"{paper.gmacs_ptflops * 1e3:,.0f}"
        rows.append([f"the paper's ({paper.dataset})", "", "", "", "", millions, mmacs])
        notes.append(
            f"The paper: {paper.accuracy_pct:.2f} % {paper.measure} on {paper.dataset}, {paper.pixels} pixels; its "
            "MACs include norms, activations and pooling."
        )
    return Cells(name, ["block", "module", "kind", "C", "k", "parameters", "MMACs"], rows, notes)

"""Tables: a comparison, and a network block by block, as text cells and for the terminal."""

import dataclasses
import itertools
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from scipy.stats import ttest_ind
from torch import Tensor, nn

from cnnmod.measure.count import count_modules
from cnnmod.measure.experiment import Experiment, RowResult
from cnnmod.measure.results import Comparison, interquartile_range
from cnnmod.measure.selection import Selection
from cnnmod.method.convert import mod_blocks
from cnnmod.method.discover import find_modules
from cnnmod.method.plan import PlannedBlock, plan
from cnnmod.networks.paper import paper_rows
from cnnmod.training.classes import name_classes
from cnnmod.training.recipes import RECIPES
from cnnmod.training.scores import Score


@dataclass(frozen=True)
class Cells:
    """A table as text; the first column is aligned to the left, the others to the right."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]

    def rich(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        table.caption, table.caption_justify = "\n".join(self.notes), "left"
        for number, name in enumerate(self.header):
            table.add_column(name, justify="right" if number else "left", no_wrap=not number)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For README and docs."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in [self.header, rule, *self.rows]]
        return "\n".join([f"**{self.title}**", "", *lines, "", *self.notes])


def comparison_cells(comparison: Comparison) -> Cells:
    """Baseline, MoD networks and controls; a row for each network and condition."""
    with_accuracy = comparison.accuracy_source is not None
    with_runtime = any(runtime != "eager" for runtime, _ in comparison.conditions)
    rows: list[list[str]] = []
    for runtime, batch_size in comparison.conditions:
        for row in comparison.rows:
            found = comparison.measurement(row, runtime, batch_size)
            cells = ["└ control" if row.role == "control" else row.name, f"{batch_size}"]
            cells += [f"{row.parameters / 1e6:.2f}", f"{row.gmacs:.3f}"]
            if with_accuracy:
                cells.append("" if row.accuracy_pct is None else f"{row.accuracy_pct:.2f}")
            cells.append(f"{found.median_ms:.1f}")
            speedups = comparison.speedups(row, runtime, batch_size)
            cells.append("1" if row.role == "baseline" else _spread(speedups, "{:.2f}"))
            taxes = comparison.mod_taxes(row, runtime, batch_size) if row.role == "mod" else []
            cells.append(_spread([100 * tax for tax in taxes], "{:+.1f}") if taxes else "")
            cells.append("" if found.peak_memory_mib is None else f"{found.peak_memory_mib:.0f}")
            rows.append([cells[0], runtime, cells[1], *cells[4:-1]] if with_runtime else cells)
    accuracy = ["score %"] if with_accuracy else []
    header = ["network", "batch", "params M", "GMACs", *accuracy, "ms", "speed-up", "MoD tax %", "peak MiB"]
    if with_runtime:
        header = [header[0], "runtime", header[1], *header[4:-1]]
    made = comparison.provenance
    conditions = [
        f"{made.device} ({made.processor}), {_threads(made.threads)}",
        f"torch {made.versions['torch']}",
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


def _spread(values: list[float], form: str) -> str:
    half = interquartile_range(values) / 2
    return f"{form.format(statistics.median(values))} ±{form.format(half).lstrip('+')}"


def experiment_cells(first: Experiment, *others: Experiment) -> Cells:
    """Baseline, MoD network and control with their accuracies, and other forms of the MoD network below them.

    Args:
        first: Its rows are what all is compared with.
        others: Experiments that differ from it in the MoD config alone; a row is called after its difference.

    Raises:
        ValueError: One differs in more than that.
    """
    for other in others:
        networks = dataclasses.replace(other.recipe.networks, config=first.recipe.networks.config)
        alike = dataclasses.replace(other.recipe, networks=networks)
        if (alike, other.data, other.train_images) != (first.recipe, first.data, first.train_images):
            raise ValueError(f"{other.name!r} differs from {first.name!r} in more than the MoD config")
    labelled = [(row.row, row) for row in first.rows]
    labelled += [(other.name.removeprefix(f"{first.name}, "), row) for other in others for row in other.rows]
    control, mod = first.row("control"), first.row("mod")
    rows: list[list[str]] = []
    for label, row in labelled:
        std = "" if row.std_pct is None else f" ±{row.std_pct:.2f}"
        seconds = statistics.mean(result.seconds for result in row.results)
        parameters = f"{row.results[0].parameters / 1e6:.3f}"
        cells = [label, parameters, f"{row.mean_pct:.2f}{std}", _difference(row, control)]
        rows.append([*cells, *([_difference(row, mod)] if others else []), str(len(row.results)), f"{seconds:.0f}"])
    accuracy, made = first.rows[0].results[0].accuracy, first.provenance
    notes = [
        f"{first.measure} on {accuracy.images:,} test images of {first.data}, mean ± standard deviation of n runs; "
        f"differences ± half of the 95 % interval (Welch's t); {first.train_images:,} training images, "
        f"{first.recipe.optimization.epochs} epochs; {made.device} ({made.processor}), {_threads(made.threads)}; "
        f"torch {made.versions['torch']}."
    ]
    if accuracy.absent_classes:
        notes.append(f"Classes that the test set does not have: {name_classes(accuracy.absent_classes, None)}.")
    over = ["over control", *(["over mod"] if others else [])]
    return Cells(
        first.name, ["network", "params M", f"{first.measure} {accuracy.unit}", *over, "n", "s per run"], rows, notes
    )


def _difference(row: RowResult, other: RowResult | None) -> str:
    """How many points the row's mean is above the other's, and how sure that is."""
    if other is None or row is other:
        return ""
    points = f"{row.mean_pct - other.mean_pct:+.2f}"
    if row.std_pct is None or other.std_pct is None or row.std_pct == other.std_pct == 0:
        return points
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where one of the two has the same accuracy in all runs
        interval = ttest_ind(row.each_pct, other.each_pct, equal_var=False).confidence_interval()
    return f"{points} ±{(interval.high - interval.low) / 2:.2f}"


def selection_cells(of: Path, selections: Sequence[Selection]) -> Cells:
    """What each MoD block selects; entropy 0 and 100 % mean that its selector has collapsed."""
    rows = [
        [one.block, f"{one.channels}", f"{one.k}", f"{one.entropy:.3f}", f"{100 * one.most_selected_share:.1f}"]
        for one in selections
    ]
    notes = [
        f"Over {sum(selections[0].images):,} images. Entropy of the selected channels: 0 if always the same k are "
        "selected, 1 if all are selected equally often. Same k: the share of images that select exactly the k most "
        "selected channels."
    ]
    return Cells(str(of), ["MoD block", "C", "k", "entropy", "same k, %"], rows, notes)


def accuracy_text(score: Score, of: Path, classes: Sequence[str] | None = None) -> str:
    """One line for people, with the names of the classes that were not tested, where there are names."""
    broken = f"; {score.broken} could not be read" if score.broken else ""
    absent = (
        f"; no test {score.counted} is of {name_classes(score.absent_classes, classes)}" if score.absent_classes else ""
    )
    return f"{of}: {score.summary()} of {score.images:,} test images{broken}{absent}"


def recipe_table() -> Table:
    """The recipes, each with what it says of itself."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it is")
    for name, made in RECIPES.items():
        table.add_row(name, " ".join((made.__doc__ or "").split()))
    return table


def network_cells(name: str, model: nn.Module, example: Tensor | None = None) -> Cells:
    """A network block by block: kind, C and k, parameters and GMACs; the paper's beside ours.

    A dense network's blocks are shown as `convert_` would make them.
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
            made = plan(model, example=example)
            planned = {block.name: block for block in made.blocks}
            modules = [[b.name for b in blocks] for _, blocks in itertools.groupby(made.blocks, lambda b: b.module)]
            notes.append(
                f"→ MoD: cnnmod.convert_ replaces this block, c = {made.c}; parameters and MMACs are before conversion."
            )
            refused = {b.kind: b for b in reversed(made.blocks) if b.chosen and b.k is None}
            notes += [f"{kind} stays a standard block at {b.name}: {b.reason}." for kind, b in refused.items()]
    except ValueError as error:  # it runs, or counting would have failed: it has no modules
        notes.append(f"{error}.")
    rows: list[list[str]] = []
    for number, names in enumerate(modules):
        for block in names:
            kind = ["standard", "", ""]
            if block in mod:
                kind = ["MoD", str(mod[block].channels), str(mod[block].k)]
            elif block in planned and planned[block].k is not None:
                kind = ["→ MoD", str(planned[block].channels), str(planned[block].k)]
            size = sizes[block]
            rows.append([block, str(number), *kind, f"{size.parameters:,}", f"{size.gmacs * 1e3:,.2f}"])
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

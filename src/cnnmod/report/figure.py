"""Figures of accuracy over cost, for the paper's networks and for networks with measured accuracies."""

import os
import textwrap
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cnnmod.measure.results import Comparison, Row, interquartile_range
from cnnmod.networks.paper import PaperRow, paper_rows
from cnnmod.records.provenance import threads_text
from cnnmod.report.image import image_format, write_figure

_DENSE = ("resnet18", "resnet34", "resnet50", "resnet101")
_MOD = tuple(f"resnet{depth}_mod" for depth in (18, 26, 34, 42, 50, 75, 86, 101, 152))
_LINES = (("dense", _DENSE, "#666666"), ("MoD", _MOD, "#0b62a4"))
ROLES = {"baseline": ("o", "#666666"), "mod": ("s", "#0b62a4"), "control": ("^", "#c05020")}
_REFERENCE = "resnet50"
_LEAST_RANGE_PCT = 5.0  # of the accuracy axis


def four_panels(comparisons: Sequence[Comparison], path: str | os.PathLike[str]) -> None:
    """Draw the paper's ImageNet figures to an image file. Measured values are drawn as hollow marks.

    Times are divided by the time of ResNet50 on the same machine, so that the paper's laptop and other machines can be
    compared. The accuracy of a measured mark is the paper's top-1. Controls have no mark, since the paper reports no
    accuracy for them.

    Args:
        comparisons: Inference results. Results whose baseline is not ResNet50, and rows that are not in the figure, are
            ignored.
        path: The image file to write. Its suffix sets the format.

    Raises:
        ValueError: If the suffix is not an image format.
        OSError: If the file cannot be written.
    """
    image_format(path)
    figure = Figure(figsize=(13, 9), layout="constrained")
    gmacs, parameters, cpu, gpu = figure.subplots(2, 2, sharey=True).flat
    panels: tuple[tuple[Axes, str, Callable[[PaperRow], float]], ...] = (
        (gmacs, "GMACs", lambda row: row.gmacs_ptflops),
        (parameters, "Million parameters", lambda row: row.parameters_m),
        (cpu, "CPU time / ResNet50's", lambda row: row.cpu_ms / paper_rows()[_REFERENCE].cpu_ms),
        (gpu, "GPU time / ResNet50's", lambda row: row.gpu_ms / paper_rows()[_REFERENCE].gpu_ms),
    )
    for axes, label, value in panels:
        _paper_lines(axes, value)
        axes.set_xlabel(label)
        axes.margins(0.07)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    for axes in (gmacs, cpu):
        axes.set_ylabel("ImageNet top-1 (%), the paper's")
    usable = [result for result in comparisons if result.step == "inference" and result.rows[0].name == _REFERENCE]
    _count_marks(gmacs, usable, lambda row: row.gmacs, "conv + linear only, counted here")
    _count_marks(parameters, usable, lambda row: row.parameters / 1e6, "counted here")
    _time_marks(cpu, [result for result in usable if result.provenance.device == "cpu"])
    _time_marks(gpu, [result for result in usable if result.provenance.device != "cpu"])
    for axes, _, _ in panels:
        axes.legend(loc="lower right", fontsize=8)
    figure.suptitle("CNN Mixture-of-Depths: ResNets on ImageNet")
    write_figure(figure, path)


def measured_panels(comparisons: Sequence[Comparison], path: str | os.PathLike[str]) -> None:
    """Draw networks with measured accuracies to an image file: accuracy over GMACs, parameters and time.

    Args:
        comparisons: Inference results with accuracies. Times are divided by the time of each result's baseline.
        path: The image file to write. Its suffix sets the format.

    Raises:
        ValueError: If a comparison has no accuracies or is of training steps, or the suffix is not an image format.
        OSError: If the file cannot be written.
    """
    if any(result.accuracy_source is None or result.step == "training" for result in comparisons):
        raise ValueError("to draw accuracies, all results must be inference results with accuracies")
    image_format(path)
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    gmacs, parameters, time = figure.subplots(1, 3, sharey=True)
    for comparison in comparisons:
        runtime, batch_size = comparison.conditions[0]
        for axes, label, value in (
            (gmacs, "GMACs", lambda row: row.gmacs),
            (parameters, "Million parameters", lambda row: row.parameters / 1e6),
            (
                time,
                f"Time / the baseline's ({runtime}, batch {batch_size})",
                lambda row, c=comparison, r=runtime, b=batch_size: 1 / c.speedup(row, r, b),
            ),
        ):
            axes.set_xlabel(label)
            for row in comparison.rows:
                if row.accuracy_pct is not None:
                    marker, color = ROLES[row.role]
                    axes.plot(value(row), row.accuracy_pct, marker, color=color, ms=9, ls="none", label=row.name)
                    if axes is time:
                        times = [1 / each for each in comparison.speedups(row, runtime, batch_size)]
                        half = interquartile_range(times) / 2
                        axes.errorbar(value(row), row.accuracy_pct, xerr=half, fmt="none", ecolor=color)
    for axes in (gmacs, parameters, time):
        axes.margins(0.1)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    low, high = gmacs.get_ylim()
    if (missing := _LEAST_RANGE_PCT - (high - low)) > 0:  # small differences must not look large
        gmacs.set_ylim(low - missing / 2, high + missing / 2)
    gmacs.set_ylabel("Accuracy (%)")
    gmacs.legend(fontsize=8)
    title = "; ".join(dict.fromkeys(str(result.accuracy_source) for result in comparisons))
    figure.suptitle(textwrap.fill(title, 120))
    write_figure(figure, path)


def _paper_lines(axes: Axes, value: Callable[[PaperRow], float]) -> None:
    for label, names, color in _LINES:
        rows = [paper_rows()[name] for name in names]
        axes.plot(
            [value(row) for row in rows],
            [row.accuracy_pct for row in rows],
            "o-",
            color=color,
            label=f"{label}, the paper's",
        )
        for name, row in zip(names, rows, strict=True):
            short = name.removeprefix("resnet").removesuffix("_mod")
            above = label == "MoD"  # labels are above the upper line and below the lower line
            axes.annotate(
                short,
                (value(row), row.accuracy_pct),
                xytext=(-5, 6) if above else (6, -11),
                textcoords="offset points",
                ha="right" if above else "left",
                fontsize=8,
                color=color,
            )


def _count_marks(axes: Axes, comparisons: Sequence[Comparison], value: Callable[[Row], float], label: str) -> None:
    rows = {row.name: row for comparison in comparisons for row in comparison.rows}
    _marks(axes, [(name, value(row)) for name, row in rows.items()], "s", label)


def _time_marks(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    markers = iter("s^Dv<>ph*")
    for comparison in comparisons:
        provenance = comparison.provenance
        for runtime, batch_size in comparison.conditions:
            times = [(row.name, 1 / comparison.speedup(row, runtime, batch_size)) for row in comparison.rows]
            processor = f"{provenance.processor}, {threads_text(provenance.threads)}"
            machine = processor if provenance.device == "cpu" else provenance.device
            layout = ", channels last" if comparison.channels_last else ""
            label = f"measured: {runtime}, batch {batch_size}{layout}, {machine}"
            _marks(axes, times, next(markers, "x"), label)


def _marks(axes: Axes, points: Sequence[tuple[str, float]], marker: str, label: str) -> None:
    for _, names, color in _LINES:
        line_points = [(x, paper_rows()[name].accuracy_pct) for name, x in points if name in names]
        if line_points:
            xs, ys = zip(*line_points, strict=True)
            axes.plot(xs, ys, marker, mfc="none", mec=color, mew=1.5, ms=9, ls="none", label=label)
            label = "_nolegend_"

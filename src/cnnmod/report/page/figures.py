"""Figures of a report as SVG elements, which take the colors of the page."""

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from cnnmod.measure.experiment import Experiment
from cnnmod.measure.results import Comparison
from cnnmod.report.difference import half_interval_of_mean
from cnnmod.report.figure import ROLES

_TEXT = "#010203"  # replaced by the color of the page's text
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _TEXT),
}


def svg(figure: Figure, description: str) -> str:
    """Return a figure as an SVG element with a description for screen readers."""
    content = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    element = re.search(r"<svg.*</svg>", content.getvalue(), re.DOTALL)
    assert element is not None
    text = element[0].replace(_TEXT, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{description}">', text, count=1
    )


def accuracy_over_time(experiment: Experiment, comparison: Comparison) -> str | None:
    """Return the accuracy of each row over its time, with 95 % intervals, or `None` if the rows differ.

    Times are divided by the baseline's, under the first condition.
    """
    accuracies = experiment.accuracies()
    rows = [row for row in comparison.rows if row.name in accuracies]
    if len(rows) < 2:
        return None
    runtime, batch_size = comparison.conditions[0]
    unit = experiment.rows[0].results[0].accuracy.unit
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for row in rows:
            result = experiment.row(row.role)
            assert result is not None
            marker, color = ROLES[row.role]
            half = half_interval_of_mean(result.each_pct) or 0
            time = 1 / comparison.speedup(row, runtime, batch_size)
            axes.errorbar(time, result.mean_pct, half, fmt=marker, color=color, ms=8, capsize=3, label=row.name)
        axes.margins(0.15)
        axes.set_xlim(left=0)
        if unit == "%":  # the interval of two runs can be wider than all possible values
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, 0), min(high, 100))
        axes.grid(alpha=0.25)
        axes.set_xlabel(f"time / the baseline's ({runtime}, batch {batch_size})")
        axes.set_ylabel(f"{experiment.measure} {unit}")
        axes.legend(frameon=False, fontsize=9)
        return svg(figure, "Accuracy over time of baseline, MoD network and control")

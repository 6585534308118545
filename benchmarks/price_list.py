"""Draw what accuracy each arm of an experiment buys for its time, and render it as a table.

It needs the results of pays.py and prices.py for the same experiment. `python benchmarks/price_list.py` writes the
figures in docs; render.py calls `price_table`.

    python benchmarks/price_list.py    # writes docs/prices*.png
"""

import itertools
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from returns_table import about_changes
from scipy.stats import t

from cnnmod.report.image import write_figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DENSE = ("width", "depth")
_MARKS = {
    "width": ("o", "#666666"),
    "depth": ("o", "#222222"),
    "squeeze-and-excitation": ("^", "#c05020"),
    "pruned": ("D", "#2a8a4a"),
    "MoD": ("s", "#0b62a4"),
}
_LABELS = {
    "width": "dense, other widths",
    "depth": "dense, other depths",
    "pruned": "pruned (trained for twice as many epochs)",
}


@dataclass(frozen=True)
class Drawing:
    """What a figure shows.

    Attributes:
        name: The name of the experiment.
        runtimes: The runtimes with a panel for each batch size. If there are none, all runtimes of the result.
        without: Families of arms that are left out.
    """

    name: str
    runtimes: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


FIGURES = {
    "prices.png": Drawing("cifar100-prices"),
    "prices-narrow.png": Drawing("cifar100-narrow-rivals", ("onnxruntime", "openvino")),
    "prices-resnet18.png": Drawing("cifar100-resnet18", ("onnxruntime",), ("squeeze-and-excitation",)),
}


@dataclass(frozen=True)
class Accuracy:
    """Top-1 in percent: the mean of n runs. Half of its 95 % interval is t · the pooled deviation · √variance."""

    mean: float
    runs: int

    @property
    def variance(self) -> float:
        """The variance of the mean, in units of the pooled variance of a run."""
        return 1 / self.runs


@dataclass(frozen=True)
class Accuracies:
    """The accuracies of all arms that ran, and the standard deviation of a run, pooled over the arms."""

    arms: dict[str, Accuracy]
    deviation: float
    degrees: int

    def half(self, variance: float) -> float:
        """Return half of the 95 % interval of a sum of means with this variance. It is NaN if no arm ran twice."""
        return float(t.ppf(0.975, self.degrees)) * self.deviation * math.sqrt(variance) if self.degrees else math.nan


def read_accuracies(experiment: dict[str, Any]) -> Accuracies:
    """Return the accuracies in a result of pays.py. All arms are taken to have the same standard deviation."""
    top1 = {arm["arm"]: [run["accuracy"]["top1_pct"] for run in arm["results"]] for arm in experiment["arms"]}
    top1 = {arm: values for arm, values in top1.items() if values}
    squares = sum((value - statistics.mean(values)) ** 2 for values in top1.values() for value in values)
    degrees = sum(len(values) - 1 for values in top1.values())
    arms = {arm: Accuracy(statistics.mean(values), len(values)) for arm, values in top1.items()}
    return Accuracies(arms, math.sqrt(squares / degrees) if degrees else math.nan, degrees)


def family_of(arm: str) -> str:
    """Return the family of an arm of the price list, from its name.

    Examples:
        >>> family_of("width-12"), family_of("control"), family_of("control-se"), family_of("gated")
        ('width', 'depth', 'squeeze-and-excitation', 'MoD')
        >>> family_of("wide")
        'width'
    """
    if arm in ("dense", "control"):
        return "depth"
    if "-se" in arm:
        return "squeeze-and-excitation"
    if arm == "wide":
        return "width"
    kind = arm.partition("-")[0]
    return kind if kind in _MARKS else "MoD"


def times(condition: dict[str, Any]) -> dict[str, float]:
    """Return the median of time(arm) / time(control) of each arm under a condition of prices.py."""
    control = condition["times_ms"]["control"]
    return {
        arm: statistics.median(time / other for time, other in zip(values, control, strict=True))
        for arm, values in condition["times_ms"].items()
    }


def over_dense(arm: str, time: dict[str, float], found: Accuracies) -> tuple[float, float] | None:
    """Return how much more accurate an arm is than a dense network that takes the same time, in points, and its ±.

    The accuracy of this dense network is interpolated between its two neighbors among the dense networks that are more
    accurate than all faster ones. An arm that is slower than all of these is compared with the slowest of them. For an
    arm that is faster than all of them, the result is `None`.
    """
    dense: list[str] = []
    others = (name for name in found.arms if family_of(name) in DENSE and name != arm and name in time)
    for name in sorted(others, key=time.__getitem__):
        if not dense or found.arms[name].mean > found.arms[dense[-1]].mean:
            dense.append(name)
    for faster, slower in itertools.pairwise(dense):
        if time[faster] <= time[arm] <= time[slower]:
            share = (time[arm] - time[faster]) / (time[slower] - time[faster])
            one, other, own = found.arms[faster], found.arms[slower], found.arms[arm]
            variance = own.variance + (1 - share) ** 2 * one.variance + share**2 * other.variance
            return own.mean - (1 - share) * one.mean - share * other.mean, found.half(variance)
    if dense and time[arm] > time[dense[-1]]:
        own, best = found.arms[arm], found.arms[dense[-1]]
        return own.mean - best.mean, found.half(own.variance + best.variance)
    return None


def price_table(experiment: dict[str, Any], prices: dict[str, Any]) -> str:
    """Return a table with a row for each arm that ran and was timed.

    Args:
        experiment: A result file of pays.py.
        prices: The result file of prices.py for the same experiment.
    """
    found = read_accuracies(experiment)
    conditions = [(one["runtime"], one["batch_size"], times(one)) for one in prices["conditions"]]
    titles = ["arm", "n", "top-1 %", *(f"{runtime}, batch {size}" for runtime, size, _ in conditions)]
    lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
    for arm, accuracy in found.arms.items():
        if not all(arm in time for _, _, time in conditions):
            continue
        cells = [arm, str(accuracy.runs), with_half(accuracy.mean, found.half(accuracy.variance), "")]
        for _, _, time in conditions:
            gain = None if family_of(arm) in DENSE else over_dense(arm, time, found)
            cells.append(f"{time[arm]:.2f}" + (f": {with_half(*gain, '+')}" if gain else ""))
        lines.append(f"| {' | '.join(cells)} |")
    machine, rounds = prices["provenance"], len(next(iter(prices["conditions"][0]["times_ms"].values())))
    halves = (
        "± is half of the 95 % interval; the standard deviation of a run is pooled over all arms "
        f"({found.deviation:.2f} points). "
        if found.degrees
        else ""
    )
    lines.append(
        "\nTime relative to the control. After the colon: points over a dense network that takes the same time, "
        "interpolated between two dense networks of the table, or over the best one, if that one is faster. "
        f"{halves}{about_changes(prices)}{' × '.join(map(str, prices['size']))} pixels; "
        f"{machine['processor']}, {machine['threads']} threads, "
        f"torch {machine['versions']['torch']}; medians of {rounds} interleaved rounds."
    )
    return "\n".join(lines)


def with_half(value: float, half: float, sign: str) -> str:
    """Return a value in points, followed by half of its interval if it is known.

    Examples:
        >>> with_half(1.234, 0.5, "+"), with_half(40.0, math.nan, "")
        ('+1.2 ±0.5', '40.0')
    """
    return f"{value:{sign}.1f}" + ("" if math.isnan(half) else f" ±{half:.1f}")


def draw(experiment: dict[str, Any], prices: dict[str, Any], path: Path, drawing: Drawing | None = None) -> None:
    """Draw accuracy over time: a panel for each runtime and batch size, a mark for each arm."""
    drawing = drawing or Drawing("")
    found = read_accuracies(experiment)
    conditions = [one for one in prices["conditions"] if one["runtime"] in (drawing.runtimes or (one["runtime"],))]
    sizes = list(dict.fromkeys(one["batch_size"] for one in conditions))
    rows = -(-len(conditions) // len(sizes))
    figure = Figure(figsize=(6.5 * len(sizes), 5 * rows), layout="constrained")
    panels = figure.subplots(rows, len(sizes), squeeze=False, sharey=True)
    for axes, condition in zip(panels.flat, conditions, strict=True):
        time = times(condition)
        for family, (mark, color) in _MARKS.items():
            members = [arm for arm in found.arms if family_of(arm) == family]
            if not members or family in drawing.without:
                continue
            if family == "width":
                members.append("control")  # it is one of the widths and one of the depths
            arms = sorted(members, key=time.__getitem__)
            axes.errorbar(
                [time[arm] for arm in arms],
                [found.arms[arm].mean for arm in arms],
                [found.half(found.arms[arm].variance) for arm in arms],
                fmt=mark,
                ls="-" if family in DENSE else "none",
                color=color,
                elinewidth=0.8,
                label=_LABELS.get(family, family),
            )
            for arm in members[: -1 if family == "width" else None]:
                axes.annotate(
                    arm, (time[arm], found.arms[arm].mean), xytext=(5, 3), textcoords="offset points", fontsize=7
                )
        axes.set_title(f"{condition['runtime']}, batch {condition['batch_size']}")
        axes.set_xlabel("Time / the control's")
        axes.margins(x=0.1)  # for the names at the right
        axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel("CIFAR-100 top-1 (%)")
    panels[0, 0].legend(loc="lower right", fontsize=8)
    write_figure(figure, path)


def main() -> None:
    """Draw all figures."""
    for file, drawing in FIGURES.items():
        names = (f"{kind}-{drawing.name}.json" for kind in ("pays", "prices"))
        experiment, prices = (json.loads((RESULTS / name).read_text(encoding="utf-8")) for name in names)
        draw(experiment, prices, ROOT / "docs" / file, drawing)


if __name__ == "__main__":
    main()

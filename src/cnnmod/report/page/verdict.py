"""The conclusion of a report in one or two sentences."""

import statistics

from cnnmod.measure.experiment import Experiment, RowResult
from cnnmod.measure.results import Comparison, Row
from cnnmod.report.difference import half_interval
from cnnmod.report.page.sources import Sources

_LEAST_RUNS = 2  # of a row, for an interval


def verdict(sources: Sources) -> str:
    """Return what the sources show: speed and accuracy against the dense network, and what the MoD blocks are worth."""
    experiment = sources.experiments[0][1] if sources.experiments else None
    timed = next((comparison for comparison in sources.comparisons if comparison.step == "inference"), None)
    speed, accuracy = _speed(timed) if timed else "", _accuracy(experiment) if experiment else ""
    if accuracy and not speed:
        accuracy = f"The MoD network is {accuracy} than the dense network"
    sentences = [f"{', '.join(filter(None, (speed, accuracy)))}."] if speed or accuracy else []
    if experiment is not None:
        sentences += _worth(experiment, timed)
    if sources.exports:
        sentences.append(_exports(sources))
    return " ".join(sentences) or "The sources have no MoD network to compare."


def _speed(comparison: Comparison) -> str:
    mod = _first_mod(comparison)
    if mod is None:
        return ""
    runtime, batch_size = comparison.conditions[0]
    speedup = comparison.speedup(mod, runtime, batch_size)
    return f"{mod.name} is {speedup:.2f}× as fast as {comparison.rows[0].name} in {runtime} at batch {batch_size}"


def _accuracy(experiment: Experiment) -> str:
    mod, baseline = experiment.row("mod"), experiment.row("baseline")
    if mod is None or baseline is None:
        return ""
    points, half = _difference(mod, baseline)
    comparative = "more" if points > 0 else "less"
    return f"{abs(points):.1f}{_plus_minus(half)} points ({experiment.measure}, {_runs(mod)}) {comparative} accurate"


def _worth(experiment: Experiment, timed: Comparison | None) -> list[str]:
    """Return sentences on the MoD network against its control."""
    mod, control = experiment.row("mod"), experiment.row("control")
    if mod is None or control is None:
        return ["The control was not trained, so it is unknown what the MoD blocks are worth."]
    points, half = _difference(mod, control)
    difference = f"{points:+.1f}{_plus_minus(half)} points"
    if half is None:
        return [f"The MoD blocks are worth {difference} over leaving them out. One run is too few for a conclusion."]
    if points > half:
        return [f"The MoD blocks are worth {difference} over leaving them out."]
    found = "are worth nothing" if points < -half else "are not measurably worth anything"
    return [f"The MoD blocks {found} over leaving them out ({difference}): use the control{_tax(timed)}."]


def _tax(timed: Comparison | None) -> str:
    mod = None if timed is None else _first_mod(timed)
    if timed is None or mod is None or timed.mod_tax(mod, *timed.conditions[0]) <= 0:
        return ""
    return f"; the MoD network takes {100 * timed.mod_tax(mod, *timed.conditions[0]):.0f} % longer"


def _exports(sources: Sources) -> str:
    error = max(report.largest_error for report in sources.exports)
    same = min(report.selection_agreement for report in sources.exports)
    count = len(sources.exports)
    files = "The exported file agrees" if count == 1 else f"The {count} exported files agree"
    return f"{files} with eager PyTorch: largest error {error:.0e}, {100 * same:.4g} % of the selected channels equal."


def _first_mod(comparison: Comparison) -> Row | None:
    return next((row for row in comparison.rows if row.role == "mod"), None)


def _difference(one: RowResult, other: RowResult) -> tuple[float, float | None]:
    points = statistics.mean(one.each_pct) - statistics.mean(other.each_pct)
    if min(len(one.results), len(other.results)) < _LEAST_RUNS:
        return points, None
    return points, half_interval(one.each_pct, other.each_pct)


def _plus_minus(half: float | None) -> str:
    return "" if half is None else f" ± {half:.1f}"


def _runs(row: RowResult) -> str:
    return f"{len(row.results)} run{'s' * (len(row.results) != 1)}"

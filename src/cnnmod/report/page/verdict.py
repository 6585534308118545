"""The conclusion of a report in one or two sentences."""

import statistics

from cnnmod.measure.experiment import Experiment, RowResult
from cnnmod.measure.results import Comparison, Row, interquartile_range
from cnnmod.report.difference import half_interval
from cnnmod.report.page.sources import Sources
from cnnmod.tuning.result import Tuned

_LEAST_RUNS = 2  # of a row, for an interval


def verdict(sources: Sources) -> str:
    """Return what the sources show: speed and accuracy against the dense network, and what the MoD blocks are worth.

    Without an experiment, it says what is predicted for the plans. A time and an accuracy are in one sentence only if
    they are of the same networks.
    """
    experiment = sources.experiments[0][1] if sources.experiments else None
    timed = [comparison for comparison in sources.comparisons if comparison.step == "inference"]
    sentences: list[str] = []
    if experiment is None:
        sentences += map(_speed, timed[:1])
        sentences += [_plan(tuning.tuned) for tuning in sources.tunings]
    else:
        same = next((comparison for comparison in timed if _is_of(comparison, experiment)), None)
        if same is None:
            sentences += map(_speed, timed[:1])
        sentences += [_accuracy(experiment, same), *_worth(experiment, same)]
    sentences += [_exports(sources)] if sources.exports else []
    return " ".join(filter(None, sentences)) or "The sources have no MoD network to compare."


def _is_of(comparison: Comparison, experiment: Experiment) -> bool:
    """Whether a comparison times the networks of an experiment."""
    return {*experiment.accuracies()} <= {row.name for row in comparison.rows}


def _speed(comparison: Comparison) -> str:
    fast = _how_fast(comparison)
    return f"{fast}." if fast else ""


def _how_fast(comparison: Comparison) -> str:
    mod = _first_mod(comparison)
    if mod is None:
        return ""
    runtime, batch_size = comparison.conditions[0]
    speedup = comparison.speedup(mod, runtime, batch_size)
    half = interquartile_range(comparison.speedups(mod, runtime, batch_size)) / 2
    fast = f"{speedup:.2f}× as fast as"
    if abs(speedup - 1) <= half:
        fast = f"not measurably faster or slower ({speedup:.2f} ± {half:.2f}×) than"
    return f"{mod.name} is {fast} {comparison.rows[0].name} in {runtime} at batch {batch_size}"


def _plan(tuned: Tuned) -> str:
    """Return what is predicted for the chosen plan of `tune`."""
    plan = tuned.chosen
    fast = f"predicted to be {1 / plan.time:.2f}× as fast as the dense network in {tuned.runtime}"
    loss = ""
    if plan.cross_entropy is not None and plan.accuracy_pct is not None:
        loss = (
            f"; before fine-tuning, its cross-entropy changes by {plan.cross_entropy:+.3f} and its accuracy by "
            f"{plan.accuracy_pct:+.1f} points"
        )
    sentence = f"The plan for {tuned.space.network} ({plan.counted()}) is {fast}{loss}."
    return " ".join(filter(None, [sentence, tuned.conclusion()]))


def _accuracy(experiment: Experiment, timed: Comparison | None) -> str:
    """Return a sentence on the MoD network against the dense network."""
    mod, baseline = experiment.row("mod"), experiment.row("baseline")
    if mod is None or baseline is None:
        return "" if timed is None else _speed(timed)
    gain, half = _gain(mod, baseline)
    kind = f"{experiment.measure}, {len(mod.results)} run{'s' * (len(mod.results) != 1)}"
    if half is not None and abs(gain) <= half:
        result = f"not measurably better or worse ({_signed(gain, half, mod)}; {kind})"
    else:
        result = f"{_signed(abs(gain), half, mod).lstrip('+')} {'better' if gain > 0 else 'worse'} ({kind})"
    if timed is None:
        return f"The MoD network is {result}, compared with the dense network."
    return f"{_how_fast(timed)}, and {result}."


def _worth(experiment: Experiment, timed: Comparison | None) -> list[str]:
    """Return sentences on the MoD network against its control."""
    mod, control = experiment.row("mod"), experiment.row("control")
    plan = experiment.recipe.networks.plan
    if plan is not None and not plan.has_mod_blocks:
        return ["The plan has no MoD block: it only leaves blocks out, so the network is its own control."]
    if mod is None or control is None:
        return ["The control was not trained, so it is unknown what the MoD blocks are worth."]
    gain, half = _gain(mod, control)
    difference = _signed(gain, half, mod)
    if half is None:
        return [f"The MoD blocks are worth {difference} over leaving them out. One run is too few for a conclusion."]
    if gain > half:
        return [f"The MoD blocks are worth {difference} over leaving them out."]
    found = "are worth nothing" if gain < -half else "are not measurably worth anything"
    return [f"The MoD blocks {found} over leaving them out ({difference}): use the control{_tax(timed)}."]


def _tax(timed: Comparison | None) -> str:
    mod = None if timed is None else _first_mod(timed)
    if timed is None or mod is None:
        return ""
    tax = timed.mod_tax(mod, *timed.conditions[0])
    if tax <= interquartile_range(timed.mod_taxes(mod, *timed.conditions[0])) / 2:
        return ""
    return f"; the MoD network takes {100 * tax:.0f} % longer"


def _exports(sources: Sources) -> str:
    error = max(report.largest_error for report in sources.exports)
    same = [report.selection_agreement for report in sources.exports if report.selection_agreement is not None]
    count = len(sources.exports)
    files = "The exported file agrees" if count == 1 else f"The {count} exported files agree"
    selection = f", {100 * min(same):.4g} % of the selected channels equal" if same else ""
    return f"{files} with eager PyTorch: largest error {error:.0e}{selection}."


def _first_mod(comparison: Comparison) -> Row | None:
    return next((row for row in comparison.rows if row.role == "mod"), None)


def _gain(one: RowResult, other: RowResult) -> tuple[float, float | None]:
    """Return how much better one row is, with half of its 95 % interval. `None`: too few runs for an interval."""
    ranks = [[result.accuracy.rank for result in row.results] for row in (one, other)]
    gain = statistics.mean(ranks[0]) - statistics.mean(ranks[1])
    return gain, half_interval(*ranks) if min(map(len, ranks)) >= _LEAST_RUNS else None


def _signed(gain: float, half: float | None, row: RowResult) -> str:
    unit = row.results[0].accuracy.unit
    interval = "" if half is None else f" ± {half:.1f}"
    return f"{gain:+.1f}{interval} {'points' if unit == '%' else unit}"

"""TimeTable: how much faster a network becomes with each choice, measured in a runtime."""

import functools
import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy
import torch
from torch import Tensor, nn

from cnnmod.deploy.start import start
from cnnmod.measure.timing import Timed, time_interleaved
from cnnmod.method.convert import convert_
from cnnmod.method.copying import copied
from cnnmod.records.progress import Progress
from cnnmod.records.provenance import Provenance
from cnnmod.tuning.space import KEEP, Labels, Space, SpaceBlock

_CALIBRATIONS = 4  # combinations that calibrate the table
_CHECKS = 4  # other combinations, for which the prediction is compared with a measurement
_SCALES = 0.5, 2.0  # anything else is noise
_DENSE = "dense"


@dataclass(frozen=True)
class TimeCheck:
    """A combination that the table has not seen.

    Attributes:
        labels: The label of each block.
        predicted: The time that the table predicts, as a fraction of the dense network's time.
        measured: The measured time, as a fraction of the dense network's time.
    """

    labels: dict[str, str]
    predicted: float
    measured: float

    @property
    def error_pct(self) -> float:
        """The error of the prediction in % of the measured time."""
        return 100 * (self.predicted / self.measured - 1)


@dataclass(frozen=True)
class TimeTable:
    """The time that each choice of each group of blocks saves.

    Attributes:
        dense_ms: The time of the dense network in milliseconds: the smallest median of the measured groups.
        saved: The part of the dense network's time that one block of a group saves, by group and label. It is negative
            for a choice that is slower than the block.
        checks: Combinations with their predicted and measured times. Empty until the table is complete.
        scale: By what the saved times of whole combinations are larger than the sum. Measured with other combinations.
        provenance: Versions, commit and hardware of the measurement.
    """

    dense_ms: float
    saved: list[dict[str, float]]
    checks: list[TimeCheck]
    provenance: Provenance | None = None
    scale: float = 1.0

    def saves(self, block: SpaceBlock, label: str) -> float:
        """Return the part of the dense network's time that a choice for a block saves."""
        return 0.0 if label == KEEP else self.scale * self.saved[block.group][label]

    def predict(self, space: Space, labels: Labels) -> float:
        """Return the time of a combination as a fraction of the dense network's time."""
        return 1 - sum(self.saves(block, labels.get(block.name, KEEP)) for block in space.blocks)

    def largest_error_pct(self) -> float:
        """Return the largest error of the checks in %."""
        return max(abs(check.error_pct) for check in self.checks)


def measure_times(
    model: nn.Module,
    space: Space,
    runtime: str,
    example: Tensor,
    *,
    rounds: int = 20,
    finished: TimeTable | None = None,
    save: Callable[[TimeTable], None] = lambda table: None,
    progress: Progress = lambda description, done, total: None,
) -> TimeTable:
    """Measure the table of a network.

    For each group and each label, whole networks are measured in which all blocks of the group, and every second one,
    have this choice. The dense network is measured in the same rounds. A network in which blocks of several groups are
    replaced can save more or less than the sum, so random combinations give the table a scale. The times of other
    random combinations are compared with the prediction.

    Args:
        model: The dense network, in evaluation mode.
        space: Its blocks and their choices.
        runtime: The runtime in which the network will run.
        example: Images (N, C, H, W) with the batch size that will be run.
        rounds: How many times each network is timed.
        finished: A table whose first groups are measured, from an interrupted measurement.
        save: Called with the table after each group.
        progress: Called with a description and the numbers of networks that are prepared and of all networks.

    Raises:
        ValueError: If a network cannot be exported to the runtime.
        ModuleNotFoundError: If the runtime is not installed.
    """
    table = finished or TimeTable(0.0, [], [], Provenance.now(example.device, torch.get_num_threads()))
    groups = space.groups()
    networks = [_networks_of(blocks) for blocks in groups]
    random = {str(number): labels for number, labels in enumerate(space.random(_CALIBRATIONS + _CHECKS, seed=0))}
    total, done = sum(map(len, networks)) + len(random), 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(f"times in {runtime}", done, total)

    @functools.cache
    def dense() -> Timed:
        return partial(start(model, runtime, example), example)

    for number, group in enumerate(networks):
        if number < len(table.saved):
            done += len(group)
            continue
        ratios, dense_ms = _time(model, space, group, dense(), runtime, example, rounds, advance)
        counts = {name: len(labels) for name, labels in group.items()}
        saved: dict[str, float] = {}
        for label in groups[number][0].choices:
            names = [name for name in group if name.rpartition("/")[0] == label]
            if names:  # least squares: the saved time is proportional to the number of replaced blocks
                products = sum(counts[name] * (1 - ratios[name]) for name in names)
                saved[label] = products / sum(counts[name] ** 2 for name in names)
        dense_ms = dense_ms if not table.saved else min(dense_ms, table.dense_ms)
        table = replace(table, dense_ms=dense_ms, saved=[*table.saved, saved])
        save(table)
    if not table.checks:
        ratios, dense_ms = _time(model, space, random, dense(), runtime, example, rounds, advance)
        names = list(random)
        pairs = [(1 - table.predict(space, random[name]), 1 - ratios[name]) for name in names[:_CALIBRATIONS]]
        table = replace(table, scale=fitted_scale(pairs))
        made = [
            TimeCheck(dict(random[name]), table.predict(space, random[name]), ratios[name])
            for name in names[_CALIBRATIONS:]
        ]
        table = replace(table, dense_ms=min(dense_ms, table.dense_ms), checks=made)
        save(table)
    return table


def fitted_scale(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the factor that makes predicted savings equal to measured ones, by least squares. It is 0.5 to 2.

    Args:
        pairs: The predicted and the measured saving of each combination.
    """
    squares = sum(predicted**2 for predicted, _ in pairs)
    scale = sum(predicted * measured for predicted, measured in pairs) / squares if squares else 1.0
    return min(max(scale, _SCALES[0]), _SCALES[1])


def _networks_of(blocks: list[SpaceBlock]) -> dict[str, Labels]:
    """Return the combinations to measure for a group: each label in all blocks, and in every second block."""
    networks: dict[str, Labels] = {}
    for label in blocks[0].choices:
        if label != KEEP:
            networks[f"{label}/all"] = {block.name: label for block in blocks}
            if len(blocks) > 2:
                networks[f"{label}/half"] = {block.name: label for block in blocks[::2]}
    return networks


def _time(
    model: nn.Module,
    space: Space,
    networks: Mapping[str, Labels],
    dense: Timed,
    runtime: str,
    example: Tensor,
    rounds: int,
    advance: Callable[[], None],
) -> tuple[dict[str, float], float]:
    """Return the time of each network as a fraction of the dense network's time, and the latter in milliseconds."""
    runs: dict[str, Timed] = {_DENSE: dense}
    for name, labels in networks.items():
        network = copied(model)
        if any(label != KEEP for label in labels.values()):
            convert_(network, space.choices(labels), example=example[:1])
        runs[name] = partial(start(network, runtime, example), example)
        advance()
    times_ms = {name: numpy.array(times) for name, times in time_interleaved(runs, rounds=rounds).items()}
    runs.clear()
    gc.collect()  # a runtime holds the weights of each network
    dense_ms = times_ms[_DENSE]
    ratios = {name: float(numpy.median(times_ms[name] / dense_ms)) for name in networks}
    return ratios, statistics.median(dense_ms.tolist())

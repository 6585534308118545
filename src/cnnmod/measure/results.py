"""The result file: every number with the conditions under which it was measured."""

import dataclasses
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cnnmod.records.files import write_whole
from cnnmod.records.parse import parse, read_values
from cnnmod.records.provenance import Provenance
from cnnmod.records.text import TextTable

SCHEMA = "cnnmod.comparison/1"
Role = Literal["baseline", "mod", "control"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One row in one runtime at one batch size.

    Attributes:
        times_ms: Milliseconds of one batch, a number a round; the same round of all rows ran side by side.
        peak_memory_mib: The most memory that tensors held at once, parameters included; where torch runs the network.
    """

    runtime: str
    batch_size: int
    times_ms: list[float]
    peak_memory_mib: float | None

    @property
    def median_ms(self) -> float:
        return statistics.median(self.times_ms)

    @property
    def iqr_ms(self) -> float:
        return interquartile_range(self.times_ms)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network of a comparison.

    Attributes:
        name: The network's name; a control has its MoD network's and `control` after it.
        role: The comparison's `"baseline"`, a `"mod"` network, or a `"control"`.
        parameters: How many.
        gmacs: Of convolutions and linear layers, for one image; one multiply-add is one MAC.
        accuracy_pct: Where given.
        measurements: One for each runtime and batch size.
    """

    name: str
    role: Role
    parameters: int
    gmacs: float
    accuracy_pct: float | None
    measurements: list[Measurement]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Baseline, MoD networks and their controls, measured side by side. Ratios are medians over rounds.

    It shows itself as a table of medians.

    Attributes:
        step: `"inference"`, or `"training"`: forward, backward and optimizer.
        image_shape: (C, H, W).
        dtype: Of weights and images.
        channels_last: Whether weights and images are in the channels-last memory format.
        accuracy_source: What the rows' accuracies are of; `None` where none is given.
        rows: The baseline first; each MoD network's control stands after it.
    """

    step: Literal["inference", "training"]
    image_shape: list[int]
    dtype: str
    channels_last: bool
    accuracy_source: str | None
    rows: list[Row]
    provenance: Provenance

    @property
    def conditions(self) -> list[tuple[str, int]]:
        """The runtimes and batch sizes measured."""
        return [(found.runtime, found.batch_size) for found in self.rows[0].measurements]

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)

    def control_of(self, mod: Row) -> Row:
        """A MoD network's control."""
        return self.row(control_name(mod.name))

    def speedups(self, row: Row, runtime: str, batch_size: int) -> list[float]:
        """How many times as fast as the baseline, round by round."""
        return _ratios(self._times(self.rows[0], runtime, batch_size), self._times(row, runtime, batch_size))

    def mod_taxes(self, mod: Row, runtime: str, batch_size: int) -> list[float]:
        """time(MoD) / time(control) - 1, round by round."""
        control = self.control_of(mod)
        ratios = _ratios(self._times(mod, runtime, batch_size), self._times(control, runtime, batch_size))
        return [ratio - 1 for ratio in ratios]

    def speedup(self, row: Row, runtime: str, batch_size: int) -> float:
        """How many times as fast as the baseline."""
        return statistics.median(self.speedups(row, runtime, batch_size))

    def mod_tax(self, mod: Row, runtime: str, batch_size: int) -> float:
        """What the MoD blocks cost: 0.05 is 5 % of the control's time."""
        return statistics.median(self.mod_taxes(mod, runtime, batch_size))

    def measurement(self, row: Row, runtime: str, batch_size: int) -> Measurement:
        """One row under one condition."""
        return next(one for one in row.measurements if (one.runtime, one.batch_size) == (runtime, batch_size))

    def _times(self, row: Row, runtime: str, batch_size: int) -> list[float]:
        return self.measurement(row, runtime, batch_size).times_ms

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self._table().html()

    def _table(self) -> TextTable:
        """A line for each network and condition, with medians; `cnnmod.report.table` has the spreads too."""
        memory = "channels last" if self.channels_last else "channels first"
        title = f"Comparison: {self.step}, {'×'.join(map(str, self.image_shape))}, {self.dtype}, {memory}"
        if (fault := _fault(self)) is not None:
            return TextTable(title, [], [], f"not a comparison: {fault}")
        lines = [[row.name, *self._cells(row, *condition)] for condition in self.conditions for row in self.rows]
        made, rounds = self.provenance, len(self.rows[0].measurements[0].times_ms)
        where = f"{made.device} ({made.processor})"
        threads = f"{made.threads} thread{'s' * (made.threads != 1)}"
        note = f"{where}, {threads}; medians of {rounds} round{'s' * (rounds != 1)}"
        return TextTable(title, ["network", "runtime", "batch", "ms", "speed-up", "MoD tax %"], lines, note)

    def _cells(self, row: Row, runtime: str, batch_size: int) -> list[str]:
        condition = runtime, batch_size
        tax = f"{100 * self.mod_tax(row, *condition):+.1f}" if row.role == "mod" else ""
        median_ms = self.measurement(row, *condition).median_ms
        return [runtime, f"{batch_size}", f"{median_ms:.1f}", f"{self.speedup(row, *condition):.2f}", tax]


def control_name(name: str) -> str:
    """What the control of the MoD network of this name is called."""
    return f"{name} control"


def interquartile_range(values: Sequence[float]) -> float:
    """The width of the middle half."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


def write_result(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write a result file: beside `path`, then renamed.

    Raises:
        OSError: The file cannot be written.
    """
    text = json.dumps({"schema": SCHEMA, **dataclasses.asdict(comparison)}, indent=1, allow_nan=False)
    write_whole(path, text + "\n")


def read_result(path: str | os.PathLike[str]) -> Comparison:
    """Read a result file back.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no result file of this schema, with the first field that is wrong, or what is missing in it.
    """
    comparison = parse(Comparison, read_values(path, SCHEMA), str(path))
    if (fault := _fault(comparison)) is not None:
        raise ValueError(f"{path}: {fault}")
    return comparison


def _fault(comparison: Comparison) -> str | None:
    """What makes rows that cannot be compared, though each is one."""
    rows, names = comparison.rows, [row.name for row in comparison.rows]
    if [row.role for row in rows[:1]] != ["baseline"]:
        return "its first row is not the baseline"
    if not comparison.conditions:
        return f"{names[0]!r} was measured under no condition"
    for row in rows:
        if names.count(row.name) > 1:
            return f"two of its rows are called {row.name!r}"
        if row.role == "mod" and control_name(row.name) not in names:
            return f"it has no row {control_name(row.name)!r}"
        if [(one.runtime, one.batch_size) for one in row.measurements] != comparison.conditions:
            return f"{row.name!r} was not measured under the same conditions as {names[0]!r}"
        for one, first in zip(row.measurements, rows[0].measurements, strict=True):
            if not one.times_ms or len(one.times_ms) != len(first.times_ms) or min(one.times_ms) <= 0:
                return f"{row.name!r} must have as many times_ms as {names[0]!r}, all above 0"
    return None


def _ratios(numerators: list[float], denominators: list[float]) -> list[float]:
    return [over / under for over, under in zip(numerators, denominators, strict=True)]

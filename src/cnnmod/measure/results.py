"""The result file of a comparison: the measurements and the conditions under which they were made."""

import dataclasses
import difflib
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cnnmod.records.files import write_json
from cnnmod.records.frame import data_frame
from cnnmod.records.parse import parse, read_values
from cnnmod.records.provenance import Provenance
from cnnmod.records.roles import Role
from cnnmod.records.text import Printed, TextTable

SCHEMA = "cnnmod.comparison/1"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The measurements of one row in one runtime at one batch size.

    Attributes:
        runtime: The name of the runtime.
        batch_size: The batch size.
        times_ms: The time of one batch in milliseconds, one number per round. All rows were timed in the same rounds.
        peak_memory_mib: The largest memory that tensors held at the same time, including parameters. `None` if the
            runtime is not in PyTorch, or if PyTorch's operators do not run in each call (CUDA graphs).
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
        name: The name of the network. The name of a control is the name of its MoD network followed by ` control`.
        role: `"baseline"`, `"mod"` or `"control"`.
        parameters: The number of parameters.
        gmacs: 10⁹ multiply-adds of convolutions and linear layers, for one image. One multiply-add is one MAC.
        accuracy_pct: The accuracy, or `None`.
        measurements: One measurement for each runtime and batch size.
    """

    name: str
    role: Role
    parameters: int
    gmacs: float
    accuracy_pct: float | None
    measurements: list[Measurement]


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison(Printed):
    """Measurements of a baseline, MoD networks and their controls. Ratios are medians over rounds.

    A comparison is printed as a table of medians.

    Attributes:
        step: `"inference"`, or `"training"` for forward, backward and optimizer.
        image_shape: (C, H, W).
        dtype: The dtype of weights and images, followed by the dtype of autocast if it was enabled.
        channels_last: Whether weights and images are in the channels-last memory format.
        accuracy_source: What the accuracies of the rows are. `None` if no row has an accuracy.
        rows: The rows. The baseline is first, and each control follows its MoD network.
        provenance: Where, when and with which versions the measurements were made.
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
        """The measured pairs of runtime and batch size."""
        return [(measurement.runtime, measurement.batch_size) for measurement in self.rows[0].measurements]

    def row(self, name: str) -> Row:
        """Return the row with this name.

        Raises:
            ValueError: If there is none. The error names the rows, and the nearest name.
        """
        rows = {row.name: row for row in self.rows}
        if name not in rows:
            near = difflib.get_close_matches(name, rows, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the rows are {', '.join(map(repr, rows))}"
            raise ValueError(f"the comparison has no row {name!r}; {hint}")
        return rows[name]

    def control_of(self, mod: Row) -> Row:
        """Return the control of a MoD network."""
        return self.row(control_name(mod.name))

    def speedups(self, row: Row, runtime: str, batch_size: int) -> list[float]:
        """Return time(baseline) / time(row) for each round."""
        return _ratios(self._times(self.rows[0], runtime, batch_size), self._times(row, runtime, batch_size))

    def mod_taxes(self, mod: Row, runtime: str, batch_size: int) -> list[float]:
        """Return time(MoD) / time(control) - 1 for each round."""
        control = self.control_of(mod)
        ratios = _ratios(self._times(mod, runtime, batch_size), self._times(control, runtime, batch_size))
        return [ratio - 1 for ratio in ratios]

    def speedup(self, row: Row, runtime: str, batch_size: int) -> float:
        """Return how many times as fast as the baseline a row is."""
        return statistics.median(self.speedups(row, runtime, batch_size))

    def mod_tax(self, mod: Row, runtime: str, batch_size: int) -> float:
        """Return the MoD tax. For example, 0.05 stands for 5 % of the control's time."""
        return statistics.median(self.mod_taxes(mod, runtime, batch_size))

    def measurement(self, row: Row, runtime: str, batch_size: int) -> Measurement:
        """Return the measurement of a row under one condition."""
        condition = (runtime, batch_size)
        return next(value for value in row.measurements if (value.runtime, value.batch_size) == condition)

    def uncertain_ratios(self) -> list[str]:
        """Return the ratios that may be 1: half of the interquartile range is larger than their distance from 1."""
        found: list[str] = []
        for runtime, batch_size in self.conditions:
            for row in self.rows[1:]:
                where = f"{row.name}, {runtime}, batch {batch_size}"
                if _may_be(self.speedups(row, runtime, batch_size), 1):
                    found.append(f"the speed-up of {where}")
                if row.role == "mod" and _may_be(self.mod_taxes(row, runtime, batch_size), 0):
                    found.append(f"the MoD tax of {where}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    def to_pandas(self) -> Any:
        """Return a pandas data frame with a line for each network and condition.

        Raises:
            ModuleNotFoundError: If pandas is not installed.
        """
        lines = [
            {
                "network": row.name,
                "role": row.role,
                "parameters": row.parameters,
                "gmacs": row.gmacs,
                "accuracy_pct": row.accuracy_pct,
                "runtime": runtime,
                "batch_size": batch_size,
                "median_ms": self.measurement(row, runtime, batch_size).median_ms,
                "iqr_ms": self.measurement(row, runtime, batch_size).iqr_ms,
                "peak_memory_mib": self.measurement(row, runtime, batch_size).peak_memory_mib,
                "speedup": self.speedup(row, runtime, batch_size),
                "mod_tax": self.mod_tax(row, runtime, batch_size) if row.role == "mod" else None,
            }
            for runtime, batch_size in self.conditions
            for row in self.rows
        ]
        return data_frame(lines)

    def _times(self, row: Row, runtime: str, batch_size: int) -> list[float]:
        return self.measurement(row, runtime, batch_size).times_ms

    def _table(self) -> TextTable:
        """Return a table with a line for each network and condition. `cnnmod.report.table` also shows the spreads."""
        memory = "channels last" if self.channels_last else "channels first"
        title = f"Comparison: {self.step}, {'×'.join(map(str, self.image_shape))}, {self.dtype}, {memory}"
        if (fault := _fault(self)) is not None:
            return TextTable(title, [], [], [f"not a valid comparison: {fault}"])
        lines = [[row.name, *self._cells(row, *condition)] for condition in self.conditions for row in self.rows]
        rounds = len(self.rows[0].measurements[0].times_ms)
        note = f"{self.provenance.machine}; medians of {rounds} round{'s' * (rounds != 1)}"
        return TextTable(title, ["network", "runtime", "batch", "ms", "speed-up", "MoD tax %"], lines, [note])

    def _cells(self, row: Row, runtime: str, batch_size: int) -> list[str]:
        condition = runtime, batch_size
        tax = f"{100 * self.mod_tax(row, *condition):+.1f}" if row.role == "mod" else ""
        median_ms = self.measurement(row, *condition).median_ms
        return [runtime, f"{batch_size}", f"{median_ms:.1f}", f"{self.speedup(row, *condition):.2f}", tax]


def control_name(name: str) -> str:
    """Return the name of the control of a MoD network."""
    return f"{name} control"


def interquartile_range(values: Sequence[float]) -> float:
    """Return the difference between the third and the first quartile."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


def write_result(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write a result file. It replaces the file at `path` only after it is complete.

    Raises:
        OSError: If the file cannot be written.
    """
    write_json(path, {"schema": SCHEMA, **dataclasses.asdict(comparison)})


def read_result(path: str | os.PathLike[str]) -> Comparison:
    """Read a result file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a result file of this schema. The error names the first field that is wrong or missing.
    """
    comparison = parse(Comparison, read_values(path, SCHEMA), str(path))
    if (fault := _fault(comparison)) is not None:
        raise ValueError(f"{path}: {fault}")
    return comparison


def _fault(comparison: Comparison) -> str | None:
    """Return why the rows cannot be compared, or `None` if they can."""
    rows, names = comparison.rows, [row.name for row in comparison.rows]
    if [row.role for row in rows[:1]] != ["baseline"]:
        return "the first row is not the baseline"
    if not comparison.conditions:
        return f"{names[0]!r} has no measurements"
    for row in rows:
        if names.count(row.name) > 1:
            return f"two rows have the name {row.name!r}"
        if row.role == "mod" and control_name(row.name) not in names:
            return f"the row {control_name(row.name)!r} is missing"
        if [(value.runtime, value.batch_size) for value in row.measurements] != comparison.conditions:
            return f"{row.name!r} was not measured under the same conditions as {names[0]!r}"
        for value, first in zip(row.measurements, rows[0].measurements, strict=True):
            if not value.times_ms or len(value.times_ms) != len(first.times_ms) or min(value.times_ms) <= 0:
                return f"{row.name!r} must have as many times_ms as {names[0]!r}, all above 0"
    return None


def _may_be(ratios: Sequence[float], value: float) -> bool:
    return interquartile_range(ratios) / 2 > abs(statistics.median(ratios) - value)


def _ratios(numerators: list[float], denominators: list[float]) -> list[float]:
    return [numerator / denominator for numerator, denominator in zip(numerators, denominators, strict=True)]

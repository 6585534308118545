"""Read what a report is made of: comparisons, experiments, plans and exported files."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnmod.deploy.export_report import ExportReport
from cnnmod.measure.experiment import SCHEMA as EXPERIMENT
from cnnmod.measure.experiment import Experiment, read_experiment
from cnnmod.measure.results import SCHEMA as COMPARISON
from cnnmod.measure.results import Comparison, read_result
from cnnmod.records.parse import parse, read_json
from cnnmod.tuning.folder import Settings
from cnnmod.tuning.result import Tuned
from cnnmod.tuning.stored import is_tune_folder, read_tuned

ACCEPTED = (
    "a folder or accuracy.json of `cnnmod train --rows`, a result file of `cnnmod compare --out`, a folder of "
    "`cnnmod tune`, or the output of `cnnmod export --json`"
)


@dataclass(frozen=True)
class Tuning:
    """The plan in a folder of `tune`, and the settings under which it was made."""

    folder: Path
    tuned: Tuned
    settings: Settings


@dataclass
class Sources:
    """What a report is made of.

    Attributes:
        experiments: The accuracies of three rows, with their folders.
        comparisons: The times of three rows.
        tunings: The plans.
        exports: The exported files.
    """

    experiments: list[tuple[Path, Experiment]] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    tunings: list[Tuning] = field(default_factory=list)
    exports: list[ExportReport] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The name of the first MoD network, or of the first network with a plan."""
        if self.experiments:
            return self.experiments[0][1].name
        if self.comparisons:
            return next((row.name for row in self.comparisons[0].rows if row.role == "mod"), "comparison")
        if self.tunings:
            return f"Plan for {self.tunings[0].tuned.space.network}"
        return self.exports[0].path.name


def read_sources(paths: Sequence[Path]) -> Sources:
    """Read the sources of a report.

    Args:
        paths: Files and folders. The error for another file lists what is accepted.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file is not one of these, the experiments are about different data, or the plans are of
            different networks.
    """
    if not paths:
        raise ValueError(f"a report needs at least one of these: {ACCEPTED}")
    sources = Sources()
    for path in paths:
        _read(path / "accuracy.json" if path.is_dir() else path, path, sources)
    data = {experiment.data: path for path, experiment in sources.experiments}
    if len(data) > 1:
        (one, first), (other, second), *_ = data.items()
        raise ValueError(f"a report is about one data set, but {first} is about {one} and {second} about {other}")
    for tuning in sources.tunings[1:]:
        first_plan = sources.tunings[0]
        space = first_plan.tuned.space
        check_network(tuning, {block.name: block.channels for block in space.blocks}, first_plan.folder)
    return sources


def check_network(tuning: Tuning, channels: Mapping[str, int], other: Path) -> None:
    """Check that a plan is of the network whose blocks have these channels. `other` names it in the error.

    Raises:
        ValueError: If a block differs. The message has the first one.
    """
    try:
        tuning.tuned.choices.check_network(f"that of {other}", channels)
    except ValueError as error:
        raise ValueError(f"a report is about one network, but in {tuning.folder}, {error}") from error


def _read(file: Path, given: Path, sources: Sources) -> None:
    if not file.is_file() and is_tune_folder(given):
        sources.tunings.append(Tuning(given, *read_tuned(given)))
        return
    if not file.is_file():
        problem = f"the folder {given} has no accuracy.json" if given.is_dir() else f"the file {given} does not exist"
        raise FileNotFoundError(f"{problem}; a report takes {ACCEPTED}")
    try:
        values = read_json(file)
    except ValueError as error:
        raise ValueError(f"{given} is not a JSON file; a report takes {ACCEPTED}") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema == EXPERIMENT:
        sources.experiments.append((file.parent, read_experiment(file)))
    elif schema == COMPARISON:
        sources.comparisons.append(read_result(file))
    elif isinstance(values, dict) and "largest_error" in values:
        sources.exports.append(_export_report(values, given))
    else:
        raise ValueError(f"{given} is another file; a report takes {ACCEPTED}")


def _export_report(values: dict[str, Any], given: Path) -> ExportReport:
    report = parse(ExportReport, values, str(given), {Path: str})
    return dataclasses.replace(report, path=Path(report.path))

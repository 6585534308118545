"""Baseline, MoD network and control trained under one recipe with several seeds, and the file of their accuracies."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cnnmod.measure.results import control_name
from cnnmod.records.files import write_whole
from cnnmod.records.parse import parse, read_values
from cnnmod.records.provenance import Provenance
from cnnmod.records.roles import Role
from cnnmod.training.folder import Run
from cnnmod.training.images import Data
from cnnmod.training.lock import hold
from cnnmod.training.recipe import Recipe
from cnnmod.training.rows import build_row
from cnnmod.training.run import Progress, Result, run_training
from cnnmod.training.scores import Score

SCHEMA = "cnnmod.accuracy/1"


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """A network's accuracies.

    Attributes:
        row: Which network of the recipe.
        seeds: One a run.
        results: What each run came to.
    """

    row: Role
    seeds: list[int]
    results: list[Result]

    @property
    def each_pct(self) -> list[float]:
        """What each run is compared by, as top-1, mIoU, or AP50."""
        return [result.accuracy.value for result in self.results]

    @property
    def mean_pct(self) -> float:
        return statistics.mean(self.each_pct)

    @property
    def std_pct(self) -> float | None:
        """Of the sample; `None` of one run."""
        return statistics.stdev(self.each_pct) if len(self.results) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Accuracies that can be compared: of one recipe, one data set and the same seeds.

    Attributes:
        name: The recipe's, with what was changed in it.
        recipe: In full.
        data: The data set's name.
        train_images: How many were trained on.
        num_classes: How many the images have.
        rows: In the order in which they were asked for.
    """

    name: str
    recipe: Recipe
    data: str
    train_images: int
    num_classes: int
    rows: list[RowResult]
    provenance: Provenance

    def row(self, row: Role) -> RowResult | None:
        """The accuracies of a row, if it was trained."""
        return next((found for found in self.rows if found.row == row), None)

    @property
    def measure(self) -> str:
        """What its rows are compared by."""
        return self.rows[0].results[0].accuracy.title

    def networks(self) -> dict[str, nn.Module]:
        """Baseline and MoD network with fresh weights, by name, as `compare` takes them."""
        names = self._names()
        return {names[row]: build_row(self.recipe, row, self.num_classes) for row in ("baseline", "mod")}

    def accuracies(self) -> dict[str, float]:
        """The mean accuracy of each row, by the name of its network."""
        return {self._names()[row.row]: row.mean_pct for row in self.rows}

    def _names(self) -> dict[Role, str]:
        baseline, mod = self.recipe.networks.baseline, self.recipe.networks.network
        mod = f"{mod} MoD" if mod == baseline else mod
        return {"baseline": baseline, "mod": mod, "control": control_name(mod)}


def run_experiment(
    name: str,
    recipe: Recipe,
    rows: Sequence[Role],
    seeds: Sequence[int],
    place: str,
    data: Data,
    folder: Path,
    *,
    save_every_s: float = 60,
    progress: Progress = lambda what, done, total, rate: None,
) -> Experiment:
    """Run what is missing, and go on with what was cut off; write `accuracy.json` into the folder.

    Raises:
        OSError: The folder cannot be written to.
        ValueError: A run of the folder is of another recipe, or one is going on in it; or what training raises.
        FloatingPointError: A loss is no longer finite.
    """
    with hold(folder):
        found = [
            RowResult(
                row=row,
                seeds=list(seeds),
                results=[
                    run_training(
                        Run(recipe=recipe, row=row, seed=seed, data=place),
                        folder / f"{row}-seed{seed}",
                        data,
                        save_every_s=save_every_s,
                        progress=progress,
                    )
                    for seed in seeds
                ],
            )
            for row in rows
        ]
        experiment = Experiment(
            name=name,
            recipe=recipe,
            data=Path(place).name,
            train_images=len(data.train),
            num_classes=data.num_classes,
            rows=found,
            provenance=Provenance.now(
                torch.device("cuda" if torch.cuda.is_available() else "cpu"), torch.get_num_threads()
            ),
        )
        write_experiment(experiment, folder / "accuracy.json")
        return experiment


def write_experiment(experiment: Experiment, path: Path) -> None:
    """Write a file of accuracies: beside `path`, then renamed.

    Raises:
        OSError: The file cannot be written.
    """
    rest = {field.name: getattr(experiment, field.name) for field in dataclasses.fields(experiment)}
    values = rest | {
        "recipe": experiment.recipe.to_dict(),
        "rows": [dataclasses.asdict(row) for row in experiment.rows],
        "provenance": dataclasses.asdict(experiment.provenance),
    }
    write_whole(path, json.dumps({"schema": SCHEMA, **values}, indent=1, allow_nan=False) + "\n")


def read_experiment(path: Path) -> Experiment:
    """Read a file of accuracies back.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such file, with the first field that is wrong, or what is missing in it.
    """
    values = read_values(path, SCHEMA)
    instead = {}
    if "recipe" in values:
        instead = {Score: parse(Recipe, values["recipe"], f"{path}: recipe").task.score}
    experiment = parse(Experiment, values, str(path), instead)
    rows = [row.row for row in experiment.rows]
    if not rows or len(set(rows)) < len(rows):
        raise ValueError(f"{path}: its rows must be some of baseline, mod and control, each once, not {rows}")
    for row in experiment.rows:
        if not row.results or len(row.results) != len(row.seeds):
            raise ValueError(f"{path}: {row.row} must have one result for each of its seeds")
    return experiment

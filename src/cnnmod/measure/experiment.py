"""Train baseline, MoD network and control with one recipe and several seeds, and write their accuracies."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cnnmod.measure.results import control_name
from cnnmod.records.files import write_json
from cnnmod.records.parse import parse, read_values
from cnnmod.records.provenance import Provenance
from cnnmod.records.roles import Role
from cnnmod.training.folder import Run
from cnnmod.training.images import Data
from cnnmod.training.lock import hold
from cnnmod.training.recipe import Recipe
from cnnmod.training.rows import build_row
from cnnmod.training.run import Result, RunProgress, run_training
from cnnmod.training.scores import Score

SCHEMA = "cnnmod.accuracy/1"


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """The accuracies of a network.

    Attributes:
        row: The network of the recipe.
        seeds: The seed of each run.
        results: The result of each run.
    """

    row: Role
    seeds: list[int]
    results: list[Result]

    @property
    def each_pct(self) -> list[float]:
        """The main score of each run: top-1, mIoU or AP50."""
        return [result.accuracy.value for result in self.results]

    @property
    def mean_pct(self) -> float:
        """The mean over runs."""
        return statistics.mean(self.each_pct)

    @property
    def std_pct(self) -> float | None:
        """The sample standard deviation over runs. `None` for a single run."""
        return statistics.stdev(self.each_pct) if len(self.results) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Comparable accuracies: with the same recipe, data set and seeds.

    Attributes:
        name: The name of the recipe, with its changes.
        recipe: The recipe.
        data: The name of the data set.
        train_images: The number of training images.
        num_classes: The number of classes.
        rows: The networks, in the requested order.
        provenance: Versions, commit and hardware.
    """

    name: str
    recipe: Recipe
    data: str
    train_images: int
    num_classes: int
    rows: list[RowResult]
    provenance: Provenance

    def row(self, row: Role) -> RowResult | None:
        """Return the accuracies of a row, or `None` if it was not trained."""
        return next((result for result in self.rows if result.row == row), None)

    @property
    def measure(self) -> str:
        """The title of the main score."""
        return self.rows[0].results[0].accuracy.title

    def networks(self) -> dict[str, nn.Module]:
        """Return baseline and MoD network with initial weights by name, as `compare` takes them."""
        names = self._names()
        rows: tuple[Role, ...] = ("baseline", "mod")
        return {names[row]: build_row(self.recipe, row, self.num_classes, with_weights=False) for row in rows}

    def accuracies(self) -> dict[str, float]:
        """Return the mean accuracy of each row by the name of its network."""
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
    progress: RunProgress = lambda description, done, total, rate: None,
) -> Experiment:
    """Train all rows with all seeds, and write `accuracy.json` into the folder.

    Interrupted runs in the folder are resumed, and finished runs are kept.

    Args:
        name: The name of the experiment.
        recipe: The recipe.
        rows: The networks to train.
        seeds: The seeds of the runs of each network.
        place: The data set, as `open_data` takes it.
        data: The opened data set.
        folder: The folder of the run folders.
        save_every_s: As for `run_training`.
        progress: As for `run_training`.

    Raises:
        OSError: If the folder cannot be written to.
        ValueError: If a run in the folder has another recipe or is in use, or as `run_training`.
        FloatingPointError: If a loss is not finite.
    """
    with hold(folder):
        row_results = [
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
            rows=row_results,
            provenance=Provenance.now(
                torch.device("cuda" if torch.cuda.is_available() else "cpu"), torch.get_num_threads()
            ),
        )
        write_experiment(experiment, folder / "accuracy.json")
        return experiment


def write_experiment(experiment: Experiment, path: Path) -> None:
    """Write an experiment to a JSON file atomically.

    Raises:
        OSError: If the file cannot be written.
    """
    fields = {field.name: getattr(experiment, field.name) for field in dataclasses.fields(experiment)}
    values = fields | {
        "recipe": experiment.recipe.to_dict(),
        "rows": [dataclasses.asdict(row) for row in experiment.rows],
        "provenance": dataclasses.asdict(experiment.provenance),
    }
    write_json(path, {"schema": SCHEMA, **values})


def read_experiment(path: Path) -> Experiment:
    """Read a file that `write_experiment` wrote.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the content is invalid. The error names the first wrong or missing field.
    """
    values = read_values(path, SCHEMA)
    replacements = {}
    if "recipe" in values:
        replacements = {Score: parse(Recipe, values["recipe"], f"{path}: recipe").task.score}
    experiment = parse(Experiment, values, str(path), replacements)
    rows = [row.row for row in experiment.rows]
    if not rows or len(set(rows)) < len(rows):
        raise ValueError(
            f"{path}: rows must be one or more of baseline, mod and control without duplicates, not {rows}"
        )
    for row in experiment.rows:
        if not row.results or len(row.results) != len(row.seeds):
            raise ValueError(f"{path}: {row.row} must have one result per seed")
    return experiment

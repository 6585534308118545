"""Does MoD pay? Train the arms of an experiment and compare each with its control and its static twin.

An experiment is a JSON file in benchmarks/pays: the recipe, the arms, how many runs each has, what they are compared
with, and the stop rule. It is committed before the first run; an experiment that was changed after its first run is
refused. Runs go side by side. Cut off or out of time, another call goes on; what each run came to is kept in
runs/pays, also in git.

    python benchmarks/pays.py benchmarks/pays/cifar100-resnet18.json    # writes results/pays-cifar100-resnet18.json
"""

import dataclasses
import functools
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from cnnmod.records.files import write_whole
from cnnmod.records.parse import parse
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars
from cnnmod.training.data import Data, open_data
from cnnmod.training.folder import Run
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import Row
from cnnmod.training.run import Result, read_result, run_training

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CNNMOD_DATA", HERE.parents[1] / "shared" / "data"))
SCHEMA = "cnnmod.pays/1"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Networks that are trained alike, with seeds 0, 1, ….

    Attributes:
        row: Which network of the recipe.
        changes: What is changed in the experiment's recipe.
        runs: How many there are to be.
        twin: The arm with the same block and a fixed selection, if there is one.
    """

    row: Row
    changes: list[str]
    runs: int
    twin: str | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be run, as the experiment's file says.

    Attributes:
        question: What the experiment is to answer.
        stop_rule: When it ends, decided before the first run.
        data: The data set's folder.
        recipe: A recipe's name.
        changes: What is changed in it for all arms.
        arms: By name; `control` is what all are compared with.
    """

    question: str
    stop_rule: str
    data: str
    recipe: str
    changes: list[str]
    arms: dict[str, Arm]

    def __post_init__(self) -> None:
        for name, arm in self.arms.items():
            self.recipe_of(name)
            if arm.twin is not None and arm.twin not in self.arms:
                raise ValueError(f"the twin of {name} is {arm.twin!r}; the arms are {', '.join(self.arms)}")
        if "control" not in self.arms:
            raise ValueError(f"an experiment needs the arm 'control'; the arms are {', '.join(self.arms)}")

    def recipe_of(self, arm: str) -> Recipe:
        return recipe(self.recipe, [*self.changes, *self.arms[arm].changes])

    def runs(self) -> list[tuple[str, int]]:
        """Arms and seeds, in an order that gives each arm its share whenever the time is up."""
        everything = [(name, seed) for name, arm in self.arms.items() for seed in range(arm.runs)]
        return sorted(everything, key=lambda run: ((run[1] + 0.5) / self.arms[run[0]].runs, run))


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """What an arm's runs came to: seeds and results in the same order."""

    arm: str
    row: Row
    changes: list[str]
    twin: str | None
    seeds: list[int]
    results: list[Result]


@dataclass(frozen=True, kw_only=True)
class Pays:
    """The result file.

    Attributes:
        name: The experiment's.
        plan: The experiment's file, as it was when the runs were made.
        arms: In the file's order; every run that was made is in it.
    """

    name: str
    plan: Plan
    arms: list[ArmResult]
    provenance: Provenance


class OutOfTimeError(Exception):
    """What was trained is saved."""


def read_plan(path: Path) -> Plan:
    """The experiment of a file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not an experiment, with the first field that is wrong.
    """
    try:
        return parse(Plan, json.loads(path.read_text(encoding="utf-8")), str(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def keep_plan(path: Path, runs: Path) -> None:
    """Copy the experiment beside its runs; or see that it is still what it was.

    Raises:
        ValueError: It was changed after the first run.
    """
    kept = runs / "run.json"
    text = path.read_text(encoding="utf-8")
    if not kept.exists():
        runs.mkdir(parents=True, exist_ok=True)
        write_whole(kept, text)
    elif kept.read_text(encoding="utf-8") != text:
        raise ValueError(f"{path} was changed after its first run (compare {kept}); give the new experiment a new name")


@functools.cache
def opened(data: Path, prepared: tuple[str, ...], name: str) -> Data:
    """The images, decoded once in each process; all arms want the same of them."""
    return open_data(data, recipe(name, prepared))


def train_one(plan: Plan, arm: str, seed: int, data: Path, folder: Path, end: float) -> None:
    """One run, in a process of its own."""

    def watch(what: str, done: int, total: int, rate: str) -> None:
        if time.time() > end:
            raise OutOfTimeError

    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    images = opened(data, tuple(plan.changes), plan.recipe)
    run = Run(recipe=plan.recipe_of(arm), row=plan.arms[arm].row, seed=seed, data=data.name)
    run_training(run, folder, images, progress=watch)


def collect(name: str, plan: Plan, runs: Path) -> Pays:
    """Every run that is done."""
    arms: list[ArmResult] = []
    for arm_name, arm in plan.arms.items():
        paths = {seed: runs / f"{arm_name}-seed{seed}" / "result.json" for seed in range(arm.runs)}
        done = {seed: path for seed, path in paths.items() if path.exists()}
        results = [read_result(path, plan.recipe_of(arm_name).task) for path in done.values()]
        found = ArmResult(
            arm=arm_name, row=arm.row, changes=arm.changes, twin=arm.twin, seeds=list(done), results=results
        )
        arms.append(found)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Pays(name=name, plan=plan, arms=arms, provenance=Provenance.now(device, 1))


def main(
    experiment: tyro.conf.Positional[Path],
    data: Path = DATA,
    runs: Path = HERE / "runs" / "pays",
    out: Path = HERE / "results",
    minutes: float = 600,
    processes: int = max(1, (os.cpu_count() or 1) - 2),
) -> None:
    """Train what is missing.

    Args:
        experiment: Its file.
        data: The folder that holds the data sets.
        runs: Where the runs are kept.
        out: Where the result file goes.
        minutes: When to stop.
        processes: Runs side by side.
    """
    end = time.time() + 60 * minutes
    plan, place = read_plan(experiment), runs / experiment.stem
    keep_plan(experiment, place)
    folder = {run: place / f"{run[0]}-seed{run[1]}" for run in plan.runs()}
    missing = [run for run in folder if not (folder[run] / "result.json").exists()]
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    with progress_bars() as bars:
        futures = {
            pool.submit(train_one, plan, *run, (data / plan.data).resolve(), folder[run], end): run for run in missing
        }
        try:
            for number, future in enumerate(as_completed(futures), 1):
                future.result()
                bars("runs", number, len(missing), futures[future][0])
        except OutOfTimeError:
            print("out of time; another call goes on from here")
        finally:
            pool.shutdown(cancel_futures=True)
    found = collect(experiment.stem, plan, place)
    content = {"schema": SCHEMA, **dataclasses.asdict(found)}
    write_whole(out / f"pays-{experiment.stem}.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    if not DATA.is_dir() and "--data" not in sys.argv:
        sys.exit(f"{DATA} does not exist: set CNNMOD_DATA to the folder that holds cifar100")
    tyro.cli(main, description=__doc__)

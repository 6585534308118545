"""Train the arms of an experiment, and compare each with its control and its static twin.

An experiment is a JSON file in benchmarks/pays: the recipe, the arms, the number of runs of each, what they are
compared with, and the stop rule. The file is committed before the first run; a file that was changed after its first
run is refused. Several runs are trained at a time. If it is interrupted or out of time, another call resumes. The
results of the runs are kept in runs/pays, which is in git.

    python benchmarks/pays.py benchmarks/pays/cifar100-bottleneck26.json    # writes results/pays-*.json
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
from cnnmod.records.roles import Role
from cnnmod.report.progress import progress_bars
from cnnmod.training.data import Data, open_data
from cnnmod.training.folder import Run
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import recipe
from cnnmod.training.run import Result, read_result, run_training

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CNNMOD_DATA", HERE.parents[1] / "shared" / "data"))
SCHEMA = "cnnmod.pays/1"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Networks with the same recipe and consecutive seeds.

    Attributes:
        row: The network of the recipe.
        changes: Changes of the experiment's recipe.
        runs: The planned number of runs.
        twin: The arm with the same block and a fixed selection, or `None`.
        starts_from: The arm whose trained network with the same seed this arm starts from, or `None`. The network's
            factory gets its checkpoint as the argument `trained`.
    """

    row: Role
    changes: list[str]
    runs: int
    twin: str | None
    starts_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An experiment, as in its file.

    Attributes:
        question: The question that the experiment answers.
        stop_rule: When it ends, decided before the first run.
        data: The folder of the data set, or `digits`.
        recipe: The name of a recipe.
        changes: Changes of the recipe for all arms.
        arms: The arms by name; all are compared with `control`.
        first_seed: The lowest seed of each arm.
        skip_broken: Whether to leave out images that cannot be read. The results count those of the test images.
    """

    question: str
    stop_rule: str
    data: str
    recipe: str
    changes: list[str]
    arms: dict[str, Arm]
    first_seed: int = 0
    skip_broken: bool = False

    def __post_init__(self) -> None:
        for name, arm in self.arms.items():
            self.recipe_of(name)
            if arm.twin is not None and arm.twin not in self.arms:
                raise ValueError(f"the twin of {name} is {arm.twin!r}; the arms are {', '.join(self.arms)}")
            if arm.starts_from is not None and arm.starts_from not in self.arms:
                raise ValueError(f"{name} starts from {arm.starts_from!r}; the arms are {', '.join(self.arms)}")
            if arm.starts_from is not None and arm.runs > self.arms[arm.starts_from].runs:
                raise ValueError(f"{name} has {arm.runs} runs, more than {arm.starts_from}, from which they start")
        if "control" not in self.arms:
            raise ValueError(f"an experiment needs the arm 'control'; the arms are {', '.join(self.arms)}")

    def recipe_of(self, arm: str, seed: int | None = None) -> Recipe:
        """Return the recipe of an arm. Without a seed, an arm that starts from another one starts from new weights."""
        start = self.arms[arm].starts_from
        trained = [] if start is None or seed is None else [f"network_args.trained={start}-seed{seed}/last.safetensors"]
        return recipe(self.recipe, [*self.changes, *self.arms[arm].changes, *trained])

    def runs(self) -> list[tuple[str, int]]:
        """Return arms and seeds, in an order that gives each arm its share at any time."""
        everything = [(name, number) for name, arm in self.arms.items() for number in range(arm.runs)]
        shares: dict[tuple[str | None, int], float] = {
            run: (run[1] + 0.5) / self.arms[run[0]].runs for run in everything
        }
        starts = {run: (self.arms[run[0]].starts_from, run[1]) for run in everything}
        everything.sort(key=lambda run: (max(shares[run], shares.get(starts[run], 0)), starts[run] in shares, run))
        return [(name, self.first_seed + number) for name, number in everything]


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """The results of an arm; seeds and results are in the same order."""

    arm: str
    row: Role
    changes: list[str]
    twin: str | None
    seeds: list[int]
    results: list[Result]


@dataclass(frozen=True, kw_only=True)
class Pays:
    """The result file.

    Attributes:
        name: The name of the experiment.
        plan: The experiment, as it was at the first run.
        arms: The arms in the order of the file, with every run that was made.
    """

    name: str
    plan: Plan
    arms: list[ArmResult]
    provenance: Provenance


class OutOfTimeError(Exception):
    """The time is over; the state of the run is saved."""


def read_plan(path: Path) -> Plan:
    """Read an experiment.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not an experiment; the message names the first wrong field.
    """
    try:
        return parse(Plan, json.loads(path.read_text(encoding="utf-8")), str(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def keep_plan(path: Path, runs: Path) -> None:
    """Copy the experiment next to its runs, or check that it has not changed since.

    Raises:
        ValueError: The file was changed after the first run.
    """
    kept = runs / "run.json"
    text = path.read_text(encoding="utf-8")
    if not kept.exists():
        runs.mkdir(parents=True, exist_ok=True)
        write_whole(kept, text)
    elif kept.read_text(encoding="utf-8") != text:
        raise ValueError(f"{path} was changed after its first run (compare {kept}); give the new experiment a new name")


@functools.cache
def opened(data: str, prepared: tuple[str, ...], name: str, skip_broken: bool) -> Data:
    """Return the images, decoded once in each process; they are the same for all arms."""
    return open_data(data, recipe(name, prepared), skip_broken=skip_broken)


def train_one(plan: Plan, arm: str, seed: int, data: str, folder: Path, end: float) -> None:
    """Train one network, in a process of its own."""

    def watch(what: str, done: int, total: int, rate: str) -> None:
        if time.time() > end:
            raise OutOfTimeError

    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    images = opened(data, tuple(plan.changes), plan.recipe, plan.skip_broken)
    run = Run(recipe=plan.recipe_of(arm, seed), row=plan.arms[arm].row, seed=seed, data=Path(data).name)
    os.chdir(folder.parent)  # the recipe names the checkpoint of another run relative to this folder
    run_training(run, folder, images, progress=watch)


def collect(name: str, plan: Plan, runs: Path) -> Pays:
    """Return the results of all finished runs."""
    arms: list[ArmResult] = []
    for arm_name, arm in plan.arms.items():
        seeds = range(plan.first_seed, plan.first_seed + arm.runs)
        paths = {seed: runs / f"{arm_name}-seed{seed}" / "result.json" for seed in seeds}
        done = {seed: path for seed, path in paths.items() if path.exists()}
        results = [read_result(path, plan.recipe_of(arm_name).task) for path in done.values()]
        arms.append(
            ArmResult(arm=arm_name, row=arm.row, changes=arm.changes, twin=arm.twin, seeds=list(done), results=results)
        )
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
    """Train the missing runs.

    Args:
        experiment: The file of the experiment.
        data: The folder that contains the data sets.
        runs: The folder of the runs.
        out: The folder of the result file.
        minutes: Stop after this time.
        processes: The number of runs at a time. 1 if an arm starts from another arm.
    """
    end = time.time() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    plan, place = read_plan(experiment), (runs / experiment.stem).resolve()
    keep_plan(experiment, place)
    folder = {run: place / f"{run[0]}-seed{run[1]}" for run in plan.runs()}
    source = plan.data if plan.data == "digits" else str((data / plan.data).resolve())
    missing = [run for run in folder if not (folder[run] / "result.json").exists()]
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    with progress_bars() as bars:
        futures = {pool.submit(train_one, plan, *run, source, folder[run], end): run for run in missing}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                future.result()
                bars("runs", number, len(missing), futures[future][0])
        except OutOfTimeError:
            print("out of time; another call resumes")
        finally:
            pool.shutdown(cancel_futures=True)
    content = {"schema": SCHEMA, **dataclasses.asdict(collect(experiment.stem, plan, place))}
    write_whole(out / f"pays-{experiment.stem}.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    if not DATA.is_dir() and "--data" not in sys.argv:
        sys.exit(f"{DATA} does not exist: set CNNMOD_DATA to the folder that contains cifar100")
    tyro.cli(main, description=__doc__)

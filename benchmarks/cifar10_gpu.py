"""Train on CIFAR-10 on a GPU, for ten epochs at full width, with several seeds and several runs at a time.

ResNet18, 34, 50 and VGG16 are trained as baseline, MoD network and control, and ResNet18-MoD with one change of
MoDConfig at a time. Needs CIFAR-10, in ../shared/data or $CNNMOD_DATA. If it is interrupted or out of time, another
call resumes. The results of the runs are kept in runs/cifar10_gpu, which is in git.

    python benchmarks/cifar10_gpu.py --minutes 25    # writes results/cifar10_gpu-NETWORK.json, …-NETWORK-CHANGE.json
"""

import functools
import itertools
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from cnnmod.measure.experiment import run_experiment
from cnnmod.records.roles import Role
from cnnmod.report.experiment import experiment_table
from cnnmod.report.progress import progress_bars
from cnnmod.training.data import Data, open_data
from cnnmod.training.folder import Run
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import recipe
from cnnmod.training.run import run_training

NETWORKS = ("resnet18", "vgg16_bn", "resnet34", "resnet50")
ROWS: tuple[Role, ...] = ("baseline", "mod", "control")
CHANGES = (
    ("order=index",),
    ("select=first",),
    ("select=random",),
    ("candidates=4",),
    ("candidates=16",),
    ("residual=false",),
    ("order=index", "c=16"),
)
FULL_WIDTH = ("network_args={}", "config.reduction=16", "batch_size=256", "precision=bf16")
DATA = Path(os.environ.get("CNNMOD_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10"


class OutOfTimeError(Exception):
    """The time is over; the state of the run is saved."""


@dataclass(frozen=True)
class Trained:
    """The rows of one result file: of a network, or of the first network with a change of `MoDConfig`."""

    network: str
    rows: tuple[Role, ...] = ROWS
    changes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "-".join([self.network, *(["_".join(self.changes).replace("=", "_")] if self.changes else [])])

    def recipe(self) -> Recipe:
        named = [f"baseline={self.network}_cifar", f"network={self.network}_cifar_mod"]
        return recipe("cifar10_fast", [*named, *FULL_WIDTH, *(f"config.{change}" for change in self.changes)])


def everything(seeds: int) -> Iterator[tuple[Trained, Role, int]]:
    """Yield all runs, the most important first."""
    first, *others = (Trained(network) for network in NETWORKS)
    changed = [Trained(NETWORKS[0], ("mod",), change) for change in CHANGES]
    for group in ([first, *changed], *([trained] for trained in others)):
        for seed, trained in itertools.product(range(seeds), group):
            for row in trained.rows:
                yield trained, row, seed


@functools.cache
def opened(data: Path) -> Data:
    """Return the decoded images, which are the same for all recipes here."""
    return open_data(data, recipe("cifar10_fast"))


def train_one(recipe: Recipe, row: Role, seed: int, data: Path, folder: Path, end: float) -> None:
    """Train one network, in a process of its own."""

    def watch(what: str, done: int, total: int, rate: str) -> None:
        if time.time() > end:
            raise OutOfTimeError

    torch.set_num_threads(1)
    run_training(Run(recipe=recipe, row=row, seed=seed, data=str(data)), folder, opened(data), progress=watch)


def main(
    minutes: float = 25,
    data: Path = DATA,
    runs: Path = Path(__file__).parent / "runs" / "cifar10_gpu",
    out: Path = Path(__file__).parent / "results",
    seeds: int = 3,
    processes: int = max(1, (os.cpu_count() or 1) - 2),
) -> None:
    """Train the missing runs, seed by seed.

    Args:
        minutes: Stop after this time.
        data: The folder of CIFAR-10.
        runs: The folder of the runs.
        out: The folder of the result files.
        seeds: The largest number of seeds.
        processes: The number of runs at a time.
    """
    end, data = time.time() + 60 * minutes, data.resolve()
    planned = list(everything(seeds))
    folder = {run: runs / run[0].name / f"{run[1]}-seed{run[2]}" for run in planned}
    missing = [run for run in planned if not (folder[run] / "result.json").exists()]
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    with progress_bars() as bars:
        futures = {
            pool.submit(train_one, run[0].recipe(), *run[1:], data, folder[run], end): run[0].name for run in missing
        }
        try:
            for number, future in enumerate(as_completed(futures), 1):
                future.result()
                bars("runs", number, len(missing), futures[future])
        except OutOfTimeError:
            print("out of time; another call resumes")
        finally:
            pool.shutdown(cancel_futures=True)
    for trained in dict.fromkeys(run[0] for run in planned):
        done = [
            seed
            for seed in range(seeds)
            if all((runs / trained.name / f"{row}-seed{seed}" / "result.json").exists() for row in trained.rows)
        ]
        if done:
            place = runs / trained.name
            experiment = run_experiment(
                trained.name, trained.recipe(), trained.rows, done, str(data), opened(data), place
            )
            shutil.copy(place / "accuracy.json", out / f"cifar10_gpu-{trained.name}.json")
            print(experiment_table(experiment).markdown())


if __name__ == "__main__":
    if not DATA.is_dir() and "--data" not in sys.argv:
        sys.exit(f"{DATA} does not exist: set CNNMOD_DATA to the folder that contains cifar10")
    if not torch.cuda.is_available():
        print("torch found no GPU; this will take days")
    tyro.cli(main, description=__doc__)

"""CIFAR-10 on a GPU: ResNet18, 34, 50 and VGG16 at full width, baseline, MoD and control, as many seeds as time allows.

Needs CIFAR-10, in ../shared/data or $CNNMOD_DATA. Cut off or out of time, it goes on where it stopped.

    python benchmarks/cifar10_gpu.py --minutes 25    # writes results/cifar10_gpu-NETWORK.json
"""

import os
import shutil
import sys
import time
from pathlib import Path

import torch
import tyro

from cnnmod.measure.experiment import run_experiment
from cnnmod.report.progress import progress_bars
from cnnmod.report.table import experiment_cells
from cnnmod.training.data import open_data
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import Row

NETWORKS = ("resnet18", "resnet34", "resnet50", "vgg16_bn")
ROWS: tuple[Row, ...] = ("baseline", "mod", "control")
FULL_WIDTH = ("network_args={}", "epochs=30", "batch_size=256", "precision=bf16", "channels_last=true")
DATA = Path(os.environ.get("CNNMOD_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10"


class OutOfTimeError(Exception):
    """What was trained is saved."""


def main(
    minutes: float = 25,
    data: Path = DATA,
    runs: Path = Path("runs/cifar10_gpu"),
    out: Path = Path(__file__).parent / "results",
    seeds: int = 5,
    changes: tuple[str, ...] = (),
) -> None:
    """Train what is missing, seed by seed.

    Args:
        minutes: When to stop.
        data: The folder of CIFAR-10.
        runs: Where the runs are kept.
        out: Where the result files go.
        seeds: How many at most.
        changes: Further changes to the recipe.
    """
    end = time.monotonic() + 60 * minutes
    name = "cifar10_fast"
    opened = open_data(data, recipe(name, [*FULL_WIDTH, *changes]))
    with progress_bars() as bars:

        def progress(what: str, done: int, total: int, rate: str) -> None:
            bars(what, done, total, rate)
            if time.monotonic() > end:
                raise OutOfTimeError

        try:
            for count in range(1, seeds + 1):
                for network in NETWORKS:
                    named = [f"baseline={network}_cifar", f"network={network}_cifar_mod"]
                    how = recipe(name, [*named, *FULL_WIDTH, *changes])
                    folder = runs / network
                    found = run_experiment(
                        f"{network}, full width",
                        how,
                        ROWS,
                        range(count),
                        str(data.resolve()),
                        opened,
                        folder,
                        progress=lambda what, done, total, rate, n=network: progress(f"{n} {what}", done, total, rate),
                    )
                    shutil.copy(folder / "accuracy.json", out / f"cifar10_gpu-{network}.json")
                    print(experiment_cells(found).markdown())
        except OutOfTimeError:
            print("out of time; another call goes on from here")


if __name__ == "__main__":
    if not DATA.is_dir() and "--data" not in sys.argv:
        sys.exit(f"{DATA} is not there: set CNNMOD_DATA to the folder that holds cifar10")
    if not torch.cuda.is_available():
        print("torch finds no GPU here; this will take days")
    tyro.cli(main, description=__doc__)

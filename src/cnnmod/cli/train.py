"""The subcommand `train`."""

import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cnnmod.cli.app import Json, Network, Weights, console, show
from cnnmod.records.roles import Role

if TYPE_CHECKING:
    from cnnmod.method.choices import Choices

logger = logging.getLogger("cnnmod")


def train(
    name: Annotated[str | None, tyro.conf.Positional] = None,
    network: Network = None,
    weights: Weights = None,
    data: str | None = None,
    out: Path | None = None,
    row: Role = "mod",
    seed: int = 0,
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    rows: tuple[Role, ...] = (),
    seeds: tuple[int, ...] = (0,),
    plan: Path | None = None,
    resume: Path | None = None,
    listing: Annotated[bool, tyro.conf.arg(name="list")] = False,
    workers: int | None = None,
    skip_broken: bool = False,
    save_every: float = 60,
    as_json: Json = False,
) -> None:
    """Train one network of a recipe, or several networks with several seeds for a comparison. Runs can be resumed.

    Example: cnnmod train --list

    Example: cnnmod train digits --data digits --out runs/digits --set epochs=3

    Example: cnnmod train cifar10_fast --data data/cifar10 --out runs/fast --rows baseline mod control --seeds 0 1 2

    Example: cnnmod train camvid --data data/camvid --out runs/camvid --rows baseline mod control

    Example: cnnmod train finetune --network my_net:make --weights my_net.pth --data photos --out runs/photos

    Example: cnnmod train --resume runs/digits

    Args:
        name: The name of a recipe, or `package.module:function`, a function that returns a recipe.
        data: `digits`, or a folder of images. Classification: class folders, Parquet, WebDataset shards or
            torchvision's CIFAR. Segmentation: CamVid's folders or Cityscapes. Detection: Pascal VOC's folders.
        out: The run folder. With `--rows` it contains one run folder for each run, and `accuracy.json`.
        row: The network of the recipe to train.
        seed: The seed of the weights, the image order and the augmentation.
        changes: Fields of the recipe to change, such as `optimization.epochs=3`. The end of a path, such as `epochs=3`
            or `config.order=index`, is enough if it is unique.
        rows: Train these networks instead of one. Finished runs in the folder are kept.
        seeds: The seeds of the runs of each network in `--rows`.
        plan: A plan of `cnnmod tune`: the choice for each block of the MoD network, instead of the recipe's config. The
            folder that `tune` wrote, whose MoD blocks are trained already, or its `plan.json`, for new MoD blocks.
        resume: The folder of an interrupted run. Recipe, data and seed are read from it.
        listing: List the recipes.
        workers: Number of processes that decode images during training. Default: the number of CPU cores.
        skip_broken: Skip images that cannot be read, and log their number in metrics.jsonl.
        save_every: Interval in seconds between saved states. The state is also saved at the end of each epoch.
    """
    from cnnmod.measure.experiment import run_experiment
    from cnnmod.records.text import TextTable
    from cnnmod.report.experiment import experiment_table
    from cnnmod.report.progress import progress_bars
    from cnnmod.report.table import accuracy_text, recipe_table
    from cnnmod.training.data import open_data
    from cnnmod.training.folder import Run, read_run
    from cnnmod.training.lock import hold
    from cnnmod.training.named import check_named
    from cnnmod.training.processes import all_processes
    from cnnmod.training.recipes import recipe as named_recipe
    from cnnmod.training.run import run_training
    from cnnmod.training.start import checked_start

    if listing:
        console.print(recipe_table())
        return
    if resume is not None:
        given = (name, data, out, weights, plan)
        if any(value is not None for value in given) or changes or rows:
            raise ValueError(
                "--resume reads everything from the run folder; it excludes a recipe, --weights, --data, --out, --set, "
                "--rows and --plan"
            )
        run = read_run(resume)
        check_named(run.recipe, network, resume)
        run_recipe, row, seed, data, out = run.recipe, run.row, run.seed, run.data, resume
        title = resume.name
    else:
        if name is None or data is None or out is None:
            raise ValueError(
                "train needs a recipe, --data and --out, such as: cnnmod train digits --data digits --out runs/digits"
            )
        run_recipe = named_recipe(name, changes, network=network, weights=weights)
        title = ", ".join([name, *([] if network is None else [network]), *changes])
        if plan is not None:
            networks = dataclasses.replace(run_recipe.networks, **_plan(plan))
            run_recipe, title = dataclasses.replace(run_recipe, networks=networks), f"{title}, {plan.name}"
            row, rows = _rows_of_plan(plan, networks.plan, row, rows)
        if data != "digits" and Path(data).exists():  # otherwise a name that the task defines
            data = str(Path(data).resolve())
    with hold(out):  # fail before reading the images if the folder is in use
        pass
    with progress_bars(all_processes().is_main_process) as progress:
        opened = open_data(data, run_recipe, workers=worker_count(workers), skip_broken=skip_broken, progress=progress)
        if resume is None:
            run_recipe = checked_start(run_recipe, rows or (row,), opened.num_classes)
        if not rows:
            run = Run(recipe=run_recipe, row=row, seed=seed, data=data)
            result = run_training(run, out, opened, save_every_s=save_every, progress=progress)
            shown: TextTable | str = accuracy_text(result.accuracy, out, opened.classes)
            if result.worth is not None:
                shown += f"\n{result.worth}"
        else:
            result = run_experiment(
                title, run_recipe, rows, seeds, data, opened, out, save_every_s=save_every, progress=progress
            )
            shown = experiment_table(result)
    show(shown, dataclasses.asdict(result), as_json)


def _plan(path: Path) -> dict[str, Any]:
    """Return the fields `plan` and `mod_weights` of a recipe from a folder of `cnnmod tune`, or from a file."""
    from cnnmod.method.choices import read_plan

    if not path.is_dir():
        return {"plan": read_plan(path)}
    weights = path / "tuned.safetensors"
    plan = read_plan(path / "plan.json")
    return {"plan": plan, "mod_weights": str(weights.resolve())} if weights.exists() else {"plan": plan}


def _rows_of_plan(
    path: Path, plan: "Choices | None", row: Role, rows: tuple[Role, ...]
) -> tuple[Role, tuple[Role, ...]]:
    """Return the rows without the control if the plan has no MoD block: its network is its own control then."""
    if plan is None or plan.has_mod_blocks:
        return row, rows
    if (rows or (row,)) == ("control",):
        raise ValueError(f"{path} has no MoD block, so its network is its own control; train the row mod")
    if "control" in rows:
        logger.warning("%s has no MoD block, so its network is its own control, which is not trained again", path)
    return row, tuple(name for name in rows if name != "control")


def worker_count(count: int | None) -> int:
    """Return the number of processes that decode images: `--workers`, or the number of CPU cores.

    Raises:
        ValueError: If the number is negative.
    """
    from cnnmod.training.processes import all_processes

    if count is not None and count < 0:
        raise ValueError(f"--workers must be ≥ 0, not {count}")
    return (os.cpu_count() or 1) // all_processes().num_processes if count is None else count

"""train, evaluate, inspect: weights, and what they select."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import tyro

from cnnmod.cli.app import Json, app, console, show
from cnnmod.measure.experiment import run_experiment
from cnnmod.measure.selection import inspect_selection
from cnnmod.networks import load
from cnnmod.records.files import check_writable
from cnnmod.records.roles import Role
from cnnmod.report.image import image_format
from cnnmod.report.progress import progress_bars
from cnnmod.report.selection import selection_figure
from cnnmod.report.table import (
    Cells,
    accuracy_text,
    experiment_cells,
    recipe_table,
    selection_cells,
)
from cnnmod.training.classes import check_same_classes
from cnnmod.training.data import open_data
from cnnmod.training.evaluate import evaluate as evaluate_network
from cnnmod.training.folder import Run, classes_of, read_run, recipe_of
from cnnmod.training.lock import hold
from cnnmod.training.processes import all_processes
from cnnmod.training.recipes import recipe
from cnnmod.training.run import run_training
from cnnmod.training.step import autocast


@app.command
def train(
    name: Annotated[str | None, tyro.conf.Positional] = None,
    data: str | None = None,
    out: Path | None = None,
    row: Role = "mod",
    seed: int = 0,
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    rows: tuple[Role, ...] = (),
    seeds: tuple[int, ...] = (0,),
    resume: Path | None = None,
    listing: Annotated[bool, tyro.conf.arg(name="list")] = False,
    workers: int | None = None,
    skip_broken: bool = False,
    save_every: float = 60,
    as_json: Json = False,
) -> None:
    """Train a network by a recipe, in a folder that can be resumed; or all rows of a comparison with several seeds.

    Example: cnnmod train --list

    Example: cnnmod train digits --data digits --out runs/digits --set epochs=3

    Example: cnnmod train cifar10_fast --data data/cifar10 --out runs/fast --rows baseline mod control --seeds 0 1 2

    Example: cnnmod train camvid --data data/camvid --out runs/camvid --rows baseline mod control

    Example: cnnmod train --resume runs/digits

    Args:
        name: A recipe, or `package.module:function`, a function that returns one.
        data: `digits`, or a folder of images: class folders, Parquet, WebDataset shards, or torchvision's CIFAR; for
            the recipes that segment or detect, masks beside images, Cityscapes, or Pascal VOC's folders.
        out: The run's folder; with `--rows` one folder for each run in it, and `accuracy.json`.
        row: Which network of the recipe.
        seed: Of the weights, the order and the augmentation.
        changes: Fields of the recipe, as `optimization.epochs=3`; the end of a path, as `epochs=3` or
            `config.order=index`, is enough if only one path ends so.
        rows: Train these instead of one; what is done in the folder is kept.
        seeds: Of the rows' runs.
        resume: The folder of a run that was cut off; its recipe, data and seed are in it.
        listing: List the recipes.
        workers: Processes that decode images beside the training, if they are decoded as they come; as many as there
            are cores if not given.
        skip_broken: Leave out images that cannot be read, with their number in metrics.jsonl.
        save_every: Seconds after which the state to resume from is saved; it is at the end of an epoch too.
    """
    if listing:
        console.print(recipe_table())
        return
    if resume is not None:
        if name is not None or data is not None or out is not None or changes or rows:
            raise ValueError("--resume takes everything from the run's folder; give it alone")
        found = read_run(resume)
        how, row, seed, data, out = found.recipe, found.row, found.seed, found.data, resume
        title = resume.name
    else:
        if name is None or data is None or out is None:
            raise ValueError(
                "train takes a recipe, --data and --out: cnnmod train digits --data digits --out runs/digits"
            )
        how, title = recipe(name, changes), ", ".join([name, *changes])
        data = data if data == "digits" else str(Path(data).resolve())
    with hold(out):  # if it is in use, say so now rather than after the images are read
        pass
    with progress_bars(all_processes().is_main_process) as progress:
        opened = open_data(data, how, workers=_workers(workers), skip_broken=skip_broken, progress=progress)
        if not rows:
            this = Run(recipe=how, row=row, seed=seed, data=data)
            result = run_training(this, out, opened, save_every_s=save_every, progress=progress)
            shown: Cells | str = accuracy_text(result.accuracy, out, opened.classes)
        else:
            result = run_experiment(
                title, how, rows, seeds, data, opened, out, save_every_s=save_every, progress=progress
            )
            shown = experiment_cells(result)
    show(shown, dataclasses.asdict(result), as_json)


@app.command
def evaluate(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    data: str,
    workers: int | None = None,
    skip_broken: bool = False,
    as_json: Json = False,
) -> None:
    """Test a network that `cnnmod train` wrote, on the test images of a data set: top-1, mIoU or average precision.

    Example: cnnmod evaluate runs/digits/best.safetensors --data digits

    Example: cnnmod evaluate runs/camvid/best.safetensors --data data/camvid

    Args:
        checkpoint: `last.safetensors` or `best.safetensors` in a run's folder.
        data: As for `cnnmod train`.
        workers: Processes that decode images; the cores if not given.
        skip_broken: Leave out images that cannot be read.
    """
    how = recipe_of(checkpoint)
    model = load(checkpoint)
    with progress_bars(all_processes().is_main_process) as progress:
        opened = open_data(data, how, workers=_workers(workers), skip_broken=skip_broken, progress=progress)
        check_same_classes(checkpoint, classes_of(checkpoint), opened.classes)
        device = all_processes().device
        assert device is not None
        accuracy = evaluate_network(
            model.to(device),
            opened.test,
            opened.num_classes,
            task=how.task,
            precision=autocast(how, device),
            progress=lambda done, total: progress("testing", done, total),
        )
    show(accuracy_text(accuracy, checkpoint, opened.classes), accuracy.to_dict(), as_json)


@app.command
def inspect(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    data: str,
    out: Path | None = None,
    workers: int | None = None,
    as_json: Json = False,
) -> None:
    """Count which channels the MoD blocks of a trained network select, over all test images and class by class.

    Example: cnnmod inspect runs/digits/best.safetensors --data digits --out selection.png

    Args:
        checkpoint: `last.safetensors` or `best.safetensors` in a run's folder.
        data: As for `cnnmod train`.
        out: A picture to draw: classes downwards, channels to the right.
        workers: Processes that decode images; as many as there are cores if not given.
    """
    if out is not None:
        image_format(out)
        check_writable(out)
    how = recipe_of(checkpoint)
    if not how.task.one_class_each:
        raise ValueError(f"inspect counts what a classifier selects; {checkpoint} was trained for {how.task.name}")
    model = load(checkpoint)
    with progress_bars(all_processes().is_main_process) as progress:
        opened = open_data(data, how, workers=_workers(workers), progress=progress)
        check_same_classes(checkpoint, classes_of(checkpoint), opened.classes)
        found = inspect_selection(
            model, opened.test, opened.num_classes, progress=lambda done, total: progress("inspecting", done, total)
        )
    if out is not None:
        selection_figure(found, opened.classes, out)
    show(selection_cells(checkpoint, found), [one.to_dict() for one in found], as_json)


def _workers(given: int | None) -> int:
    if given is not None and given < 0:
        raise ValueError(f"--workers must be ≥ 0, not {given}")
    return (os.cpu_count() or 1) // all_processes().num_processes if given is None else given

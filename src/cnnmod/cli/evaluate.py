"""The subcommands `evaluate` and `inspect`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from cnnmod.cli.app import Changes, Json, Network, RecipeName, Weights, print_text, show
from cnnmod.cli.train import worker_count


def evaluate(
    checkpoint: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    data: str,
    network: Network = None,
    weights: Weights = None,
    recipe: RecipeName = None,
    changes: Changes = (),
    workers: int | None = None,
    skip_broken: bool = False,
    as_json: Json = False,
) -> None:
    """Evaluate a network that `cnnmod train` wrote on test images: top-1, mIoU or average precision.

    Example: cnnmod evaluate runs/digits/best.safetensors --data digits

    Example: cnnmod evaluate runs/camvid/best.safetensors --data data/camvid

    Example: cnnmod evaluate --network my_net:make --weights my_net.pth --data photos --recipe finetune

    Args:
        checkpoint: `last.safetensors` or `best.safetensors` in a run's folder.
        data: The data set, as for `cnnmod train`.
        workers: Number of processes that decode images. Default: the number of CPU cores.
        skip_broken: Skip images that cannot be read.
    """
    from cnnmod.report.progress import progress_bars
    from cnnmod.report.table import accuracy_text
    from cnnmod.training.classes import check_same_classes
    from cnnmod.training.data import open_data
    from cnnmod.training.evaluate import evaluate as evaluate_network
    from cnnmod.training.processes import all_processes, process_device
    from cnnmod.training.step import autocast
    from cnnmod.training.trained import open_trained

    trained = open_trained(checkpoint, network=network, weights=weights, recipe=recipe, changes=changes)
    run_recipe = trained.recipe
    with progress_bars(all_processes().is_main_process) as progress:
        opened = open_data(data, run_recipe, workers=worker_count(workers), skip_broken=skip_broken, progress=progress)
        check_same_classes(trained.path, trained.classes, opened.classes)
        device = process_device()
        accuracy = evaluate_network(
            trained.model.to(device),
            opened.test,
            opened.num_classes,
            task=run_recipe.task,
            precision=autocast(run_recipe, device),
            progress=lambda done, total: progress("evaluating", done, total),
        )
    show(accuracy_text(accuracy, trained.path, opened.classes), accuracy.to_dict(), as_json)


def inspect(
    checkpoint: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    data: str,
    network: Network = None,
    weights: Weights = None,
    recipe: RecipeName = None,
    changes: Changes = (),
    out: Path | None = None,
    workers: int | None = None,
    as_json: Json = False,
) -> None:
    """Show which channels the MoD blocks of a trained network select, and what blocks and selection add to the score.

    Example: cnnmod inspect runs/digits/best.safetensors --data digits --out selection.png

    Args:
        checkpoint: `last.safetensors` or `best.safetensors` in a run's folder.
        data: The data set, as for `cnnmod train`.
        out: An image file to draw, with one row per class and one column per channel.
        workers: Number of processes that decode images. Default: the number of CPU cores.
    """
    from cnnmod.measure.selection import inspect_selection
    from cnnmod.records.files import check_writable
    from cnnmod.report.image import image_format
    from cnnmod.report.progress import progress_bars
    from cnnmod.report.selection import selection_figure
    from cnnmod.report.table import selection_table
    from cnnmod.training.classes import check_same_classes
    from cnnmod.training.data import open_data
    from cnnmod.training.processes import all_processes, process_device
    from cnnmod.training.step import autocast
    from cnnmod.training.trained import open_trained
    from cnnmod.training.worth import mod_worth

    if out is not None:
        image_format(out)
        check_writable(out)
    trained = open_trained(checkpoint, network=network, weights=weights, recipe=recipe, changes=changes)
    run_recipe = trained.recipe
    if not run_recipe.task.one_class_each:
        raise ValueError(f"inspect supports only classifiers; {trained.path} was trained for {run_recipe.task.name}")
    device = process_device()
    model, precision = trained.model.to(device), autocast(run_recipe, device)
    with progress_bars(all_processes().is_main_process) as progress:
        opened = open_data(data, run_recipe, workers=worker_count(workers), progress=progress)
        check_same_classes(trained.path, trained.classes, opened.classes)
        selections = inspect_selection(
            model,
            opened.test,
            opened.num_classes,
            precision=precision,
            progress=lambda done, total: progress("inspecting", done, total),
        )
        worth = mod_worth(
            model, opened.test, opened.num_classes, run_recipe.task, precision=precision, progress=progress
        )
    if out is not None:
        selection_figure(selections, opened.classes, out)
    values = {"worth": dataclasses.asdict(worth), "blocks": [selection.to_dict() for selection in selections]}
    show(selection_table(trained.path, selections), values, as_json)
    if not as_json and all_processes().is_main_process:
        print_text(f"{worth}.")

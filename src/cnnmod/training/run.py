"""Train in a run folder. A run can be killed at any time and resumed."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cnnmod.method.convert import mod_blocks
from cnnmod.networks import load
from cnnmod.records.files import write_json
from cnnmod.records.parse import parse, read_json
from cnnmod.training.evaluate import evaluate
from cnnmod.training.folder import Run, RunFolder
from cnnmod.training.images import Data
from cnnmod.training.lock import hold
from cnnmod.training.loop import train
from cnnmod.training.processes import all_processes, process_device
from cnnmod.training.rows import build_row, factory_of, size_of
from cnnmod.training.scores import Score
from cnnmod.training.step import autocast
from cnnmod.training.tasks import Task
from cnnmod.training.worth import Worth, mod_worth

logger = logging.getLogger("cnnmod")
RunProgress = Callable[[str, int, int, str], None]  # description, done, total, images/s


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run.

    Attributes:
        accuracy: The score on the test images: of the best checkpoint if there are validation images, otherwise of the
            final one.
        seconds: The training time, without the time lost to interruptions.
        parameters: The number of parameters of the network.
        worth: What the MoD blocks contribute to the score. `None` for a network without MoD blocks, and in files of
            older versions.
    """

    accuracy: Score
    seconds: float
    parameters: int
    worth: Worth | None = None


def read_result(path: Path, task: Task) -> Result:
    """Read the `result.json` of a run.

    Args:
        path: The file.
        task: The task of the run.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the content is invalid.
    """
    return parse(Result, read_json(path), str(path), {Score: task.score})


def run_training(
    run: Run,
    folder: Path,
    data: Data,
    *,
    save_every_s: float = 60,
    progress: RunProgress = lambda description, done, total, rate: None,
) -> Result:
    """Train and evaluate in a run folder. An interrupted run is resumed, and a finished one returns its result.

    Args:
        run: The run.
        folder: The run folder. It is created if necessary. If training fails before the first step, nothing is left in
            the folder.
        data: The opened data set.
        save_every_s: Interval in seconds between saved states. The state is also saved at the end of each epoch.
        progress: Called after every step.

    Raises:
        OSError: If the folder cannot be written to.
        ValueError: If the folder belongs to another run (the error names the first difference) or is in use, or as
            `train`.
        FloatingPointError: If the loss is not finite.
    """
    with hold(folder):
        return _run(RunFolder(run, folder, data.num_classes, data.classes, save_every_s), data, progress)


def _run(record: RunFolder, data: Data, progress: RunProgress) -> Result:
    processes, run, folder = all_processes(), record.run, record.folder
    record.check()
    result_path = folder / "result.json"
    if result_path.exists():
        return read_result(result_path, run.recipe.task)
    torch.manual_seed(run.seed)
    model = build_row(run.recipe, run.row, data.num_classes, with_weights=not record.resumes)
    if not record.resumes:
        run.recipe.task.check_data(data, lambda text, done, total: progress(text, done, total, ""))
    description = f"{run.row}, seed {run.seed}"
    tested = train(
        model,
        data,
        run.recipe,
        seed=run.seed,
        record=record,
        progress=lambda done, total, rate: progress(description, done, total, rate),
    )
    record.save_last(tested)
    best = folder / "best.safetensors"
    if data.validation is not None:
        processes.wait_for_everyone()
        factory, _ = factory_of(run.recipe, run.row, data.num_classes)
        tested = load(best, factory=factory, size=size_of(run.recipe, factory)).to(process_device())
    elif processes.is_main_process:
        record.save_best(tested)
    precision = autocast(run.recipe, next(tested.parameters()).device)
    accuracy = evaluate(tested, data.test, data.num_classes, task=run.recipe.task, precision=precision)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    worth = _worth(tested, data, run, progress) if mod_blocks(tested) else None
    result = Result(accuracy=accuracy, seconds=round(record.seconds, 1), parameters=parameters, worth=worth)
    if processes.is_main_process:
        write_json(result_path, dataclasses.asdict(result))
    return result


def _worth(tested: nn.Module, data: Data, run: Run, progress: RunProgress) -> Worth | None:
    """Return what the MoD blocks are worth. A failure is logged, because the run itself has succeeded."""
    try:
        return mod_worth(
            tested,
            data.test,
            data.num_classes,
            run.recipe.task,
            precision=autocast(run.recipe, next(tested.parameters()).device),
            progress=lambda text, done, total: progress(text, done, total, ""),
        )
    except (ValueError, FloatingPointError) as error:
        logger.warning("the worth of the MoD blocks is unknown: %s", error)
        return None

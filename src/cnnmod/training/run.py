"""A training in a folder of its own, which can be killed at any moment and goes on where it stopped."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cnnmod.networks import load
from cnnmod.records.files import write_whole
from cnnmod.records.parse import parse, read_json
from cnnmod.training.evaluate import evaluate
from cnnmod.training.folder import Run, RunFolder
from cnnmod.training.images import Data
from cnnmod.training.lock import hold
from cnnmod.training.loop import train
from cnnmod.training.processes import all_processes
from cnnmod.training.rows import build_row
from cnnmod.training.scores import Score
from cnnmod.training.step import autocast
from cnnmod.training.tasks import Task

Progress = Callable[[str, int, int, str], None]  # what is done, how much of it, how much there is, images/s


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to.

    Attributes:
        accuracy: Its score on the test images, of the best checkpoint if images are held out, or else of the last.
        seconds: Of training, without what was lost to interruptions.
        parameters: The network's.
    """

    accuracy: Score
    seconds: float
    parameters: int


def read_result(path: Path, task: Task) -> Result:
    """What a run of this task came to, as its `result.json` says.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such file.
    """
    return parse(Result, read_json(path), str(path), {Score: task.score})


def run_training(
    run: Run,
    folder: Path,
    data: Data,
    *,
    save_every_s: float = 60,
    progress: Progress = lambda what, done, total, rate: None,
) -> Result:
    """Train in a folder; go on with what is there, and do nothing if it is done.

    Args:
        run: What is trained.
        folder: Where; it is made if need be. A start that fails before the first step leaves nothing in it.
        data: The images, opened.
        save_every_s: Seconds after which the state is saved; at the end of an epoch it is saved too.
        progress: Called after every step.

    Raises:
        OSError: The folder cannot be written to.
        ValueError: The folder is of another run, with the first difference, or in use; or what training raises.
        FloatingPointError: The loss is no longer finite.
    """
    with hold(folder):
        return _run(RunFolder(run, folder, data.num_classes, data.classes, save_every_s), data, progress)


def _run(record: RunFolder, data: Data, progress: Progress) -> Result:
    processes, run, folder = all_processes(), record.run, record.folder
    record.check()
    done = folder / "result.json"
    if done.exists():
        return read_result(done, run.recipe.task)
    torch.manual_seed(run.seed)
    model = build_row(run.recipe, run.row, data.num_classes)
    if not record.resumes:
        run.recipe.task.check_data(data, lambda what, done, total: progress(what, done, total, ""))
    what = f"{run.row}, seed {run.seed}"
    tested = train(
        model,
        data,
        run.recipe,
        seed=run.seed,
        record=record,
        progress=lambda done, total, rate: progress(what, done, total, rate),
    )
    record.save_last(tested)
    best = folder / "best.safetensors"
    if data.validation is not None:
        processes.wait_for_everyone()
        device = processes.device
        assert device is not None
        tested = load(best).to(device)
    elif processes.is_main_process:
        record.save_best(tested)
    precision = autocast(run.recipe, next(tested.parameters()).device)
    accuracy = evaluate(tested, data.test, data.num_classes, task=run.recipe.task, precision=precision)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = Result(accuracy=accuracy, seconds=round(record.seconds, 1), parameters=parameters)
    if processes.is_main_process:
        write_whole(done, json.dumps(dataclasses.asdict(result), indent=1) + "\n")
    return result

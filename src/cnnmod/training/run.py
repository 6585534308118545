"""A training in a folder of its own, which can be killed at any moment and goes on where it stopped.

The folder holds `run.json` (recipe, row, seed, data, versions, commit), `metrics.jsonl`, `state.safetensors` to resume
from, the networks `last.safetensors` and `best.safetensors`, and at the end `result.json`.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from cnnmod.method.checkpoint import save
from cnnmod.networks.build import build, load
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.parse import parse
from cnnmod.records.provenance import Provenance
from cnnmod.training.data import Data
from cnnmod.training.evaluate import Accuracy, evaluate
from cnnmod.training.loop import autocast, train
from cnnmod.training.recipes import Recipe
from cnnmod.training.rows import Row, build_row, factory_of
from cnnmod.training.state import State

Progress = Callable[[str, int, int, str], None]  # what is done, how much of it, how much there is, images/s


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run's folder is of.

    Attributes:
        recipe: How it is trained.
        row: Which network of the recipe: the dense one, the MoD network, or its control.
        seed: Of the weights and of all that is drawn.
        data: The place of the images, as `open_data` takes it.
    """

    recipe: Recipe
    row: Row
    seed: int
    data: str

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"recipe": self.recipe.to_dict(), "row": self.row, "seed": self.seed, "data": self.data}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to.

    Attributes:
        accuracy: On the test images, of the best checkpoint if images are held out, or else of the last.
        seconds: Of training, without what was lost to interruptions.
        parameters: The network's.
    """

    accuracy: Accuracy
    seconds: float
    parameters: int


def read_run(folder: Path) -> Run:
    """What a folder is of.

    Raises:
        OSError: It holds no run.
        ValueError: Its `run.json` is not what `run_training` writes.
    """
    path = folder / "run.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no run: there is no {path.name} in it")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["run"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what a run writes: {error}") from error
    return parse(Run, values, str(path))


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
        folder: Where; it is made if need be.
        data: The images, opened.
        save_every_s: Seconds after which the state is saved; at the end of an epoch it is saved too.
        progress: Called after every step.

    Raises:
        OSError: The folder cannot be written to.
        ValueError: The folder is of another run, with the first difference; or what training raises.
        FloatingPointError: The loss is no longer finite.
    """
    processes = PartialState()
    record = _Folder(run, folder, data.num_classes, save_every_s)
    record.begin()
    if (folder / "result.json").exists():
        return parse(Result, json.loads((folder / "result.json").read_text()), str(folder / "result.json"))
    torch.manual_seed(run.seed)
    model = build_row(run.recipe, run.row, data.num_classes)
    teacher = _teacher(run.recipe, data.num_classes)
    what = f"{run.row}, seed {run.seed}"
    tested = train(
        model,
        data,
        run.recipe,
        seed=run.seed,
        teacher=teacher,
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
    accuracy = evaluate(tested, data.test, data.num_classes, precision=precision)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = Result(accuracy=accuracy, seconds=round(record.seconds, 1), parameters=parameters)
    if processes.is_main_process:
        write_whole(folder / "result.json", json.dumps(dataclasses.asdict(result), indent=1) + "\n")
    return result


class _Folder:
    """The record of a training that `loop.train` keeps; only the main process writes."""

    def __init__(self, run: Run, folder: Path, num_classes: int, save_every_s: float) -> None:
        self.run, self.folder, self.num_classes, self.save_every_s = run, folder, num_classes, save_every_s
        self.is_main = PartialState().is_main_process
        self.seconds = 0.0
        self._since = self._saved = time.monotonic()

    def begin(self) -> None:
        """Make the folder, or see that what is there is of the same run."""
        if (self.folder / "run.json").exists():
            if (there := read_run(self.folder)) != self.run:
                raise ValueError(f"{self.folder} holds another run: {_difference(there.to_dict(), self.run.to_dict())}")
        elif self.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear()
            if there := [path.name for path in self.folder.iterdir()]:
                raise ValueError(f"{self.folder} is no run's folder, and not empty: it holds {there[0]}")
            device = PartialState().device
            assert device is not None
            provenance = dataclasses.asdict(Provenance.now(device, torch.get_num_threads()))
            content = {"run": self.run.to_dict(), "provenance": provenance}
            write_whole(self.folder / "run.json", json.dumps(content, indent=1) + "\n")
        PartialState().wait_for_everyone()
        if self.is_main:
            self._clear()
            check_writable(self.folder / "state.safetensors")

    def _clear(self) -> None:
        """Delete what a kill left half written."""
        for path in self.folder.glob(".*.partial"):
            path.unlink()

    def restore(self, state: State) -> dict[str, Any]:
        path = self.folder / "state.safetensors"
        progress = state.load(path) if path.exists() else {}
        self.seconds = progress.get("seconds", 0.0)
        self._since = self._saved = time.monotonic()
        metrics = self.folder / "metrics.jsonl"
        if self.is_main and metrics.exists():
            write_whole(metrics, "".join(f"{line}\n" for line in _lines_until(metrics, progress.get("step", 0))))
        return progress

    def save(self, state: State, progress: dict[str, Any]) -> None:
        now = time.monotonic()
        if progress["epoch_ends"] or now - self._saved > self.save_every_s:
            self.seconds += now - self._since
            self._since = self._saved = now
            if self.is_main:
                state.save(self.folder / "state.safetensors", progress | {"seconds": self.seconds})

    def save_best(self, model: nn.Module) -> None:
        self._save("best.safetensors", model)

    def save_last(self, model: nn.Module) -> None:
        self._save("last.safetensors", model)

    def log(self, values: dict[str, Any]) -> None:
        if self.is_main:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

    def _save(self, name: str, model: nn.Module) -> None:
        if not self.is_main:
            return
        factory, arguments = factory_of(self.run.recipe, self.run.row, self.num_classes)
        save(model, self.folder / name, factory=factory, factory_args=arguments)


def _teacher(recipe: Recipe, num_classes: int) -> nn.Module | None:
    if recipe.teacher is None:
        return None
    if Path(recipe.teacher).is_file():
        return load(recipe.teacher)
    return build(recipe.teacher, pretrained=True, num_classes=num_classes)


def _difference(there: Any, here: Any, where: str = "") -> str:
    """The first value that differs between two dictionaries."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *here]:
            if there.get(key) != here.get(key):
                return _difference(there.get(key), here.get(key), f"{where}.{key}" if where else key)
    return f"its {where} is {there!r}, not {here!r}"


def _lines_until(metrics: Path, step: int) -> list[str]:
    """The lines up to a step; what a kill cut off is no line."""
    kept: list[str] = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except ValueError:
            break
        kept.append(line)
    return kept

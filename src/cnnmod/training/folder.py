"""The run folder of a training.

It contains `run.json` (recipe, row, seed, data, versions, commit), `metrics.jsonl`, TensorBoard logs if TensorBoard is
installed, `state.safetensors` to resume from, `last.safetensors`, `best.safetensors`, and finally `result.json`.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.method.checkpoint import save
from cnnmod.records.files import check_writable, write_json, write_whole
from cnnmod.records.parse import parse, read_json
from cnnmod.records.provenance import Provenance
from cnnmod.records.roles import Role
from cnnmod.training.classes import check_same_classes
from cnnmod.training.lock import LOCK
from cnnmod.training.processes import all_processes, process_device
from cnnmod.training.recipe import Recipe
from cnnmod.training.rows import factory_of, without_weights
from cnnmod.training.state import State, check_finite, check_loss

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    SummaryWriter = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """The identity of a run.

    Attributes:
        recipe: The recipe.
        row: The network of the recipe: baseline, MoD network or control.
        seed: The seed of the weights and of all random numbers in training.
        data: The data set, as `open_data` takes it.
    """

    recipe: Recipe
    row: Role
    seed: int
    data: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"recipe": self.recipe.to_dict(), "row": self.row, "seed": self.seed, "data": self.data}


def read_run(folder: Path) -> Run:
    """Read the run of a run folder.

    Raises:
        OSError: If the folder has no `run.json`.
        ValueError: If the content of `run.json` is invalid.
    """
    path = folder / "run.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no {path.name}")
    values = read_json(path)
    if not isinstance(values, dict) or "run" not in values:
        raise ValueError(f"{path} is not the file of a run: it has no entry 'run'")
    return parse(Run, values["run"], str(path))


def classes_of(checkpoint: Path) -> list[str] | None:
    """Return the class names of a checkpoint in a run folder, or `None` if its data set has no names.

    Raises:
        OSError: As `recipe_of`.
        ValueError: As `recipe_of`.
    """
    recipe_of(checkpoint)
    return _classes(checkpoint.parent)


def _classes(folder: Path) -> list[str] | None:
    path = folder / "run.json"
    return parse(list[str] | None, read_json(path).get("classes"), f"{path}: classes")


def recipe_of(checkpoint: Path) -> Recipe:
    """Return the recipe of a checkpoint in a run folder.

    Raises:
        OSError: If the file does not exist, or its folder has no `run.json`.
        ValueError: If the content of `run.json` is invalid.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"the file {checkpoint} does not exist")
    return read_run(checkpoint.parent).recipe


class RunFolder:
    """The record of a training in a run folder, for `loop.train`. Only the main process writes files."""

    def __init__(
        self, run: Run, folder: Path, num_classes: int, classes: Sequence[str] | None, save_every_s: float
    ) -> None:
        self.run, self.folder, self.num_classes, self.save_every_s = run, folder, num_classes, save_every_s
        self.classes = None if classes is None else list(classes)
        self.is_main = all_processes().is_main_process
        self.seconds = 0.0
        self._since = self._saved = time.monotonic()
        self._tensorboard: Any = None

    def check(self) -> None:
        """Check that the folder is empty, or that it contains the same run with the same classes."""
        if (self.folder / "run.json").exists():
            saved = read_run(self.folder)
            if Path(saved.data).name == Path(self.run.data).name:  # the data may have been moved
                saved = dataclasses.replace(saved, data=self.run.data)
            if saved != self.run:
                difference = _difference(saved.to_dict(), self.run.to_dict())
                raise ValueError(f"{self.folder} contains another run: {difference}; use another folder")
            check_same_classes(f"the run in {self.folder}", _classes(self.folder), self.classes)
        elif self.is_main:
            names = {path.name for path in self.folder.iterdir()} - {LOCK, *self._partial_files()}
            if names:
                raise ValueError(f"{self.folder} is neither a run folder nor empty: it contains {min(names)}")
        all_processes().wait_for_everyone()
        if self.is_main:
            for name in self._partial_files():
                (self.folder / name).unlink()
            check_writable(self.folder / "state.safetensors")

    @property
    def resumes(self) -> bool:
        """Whether there is a saved state to resume from."""
        return (self.folder / "state.safetensors").exists()

    def _partial_files(self) -> list[str]:
        """Return the names of incomplete files of a killed run."""
        return [path.name for path in self.folder.glob(".*.partial")]

    def describe(self) -> None:
        """Write `run.json`. Called after the first step, so that a training that fails at the start leaves no files."""
        path = self.folder / "run.json"
        if path.exists():
            return
        provenance = dataclasses.asdict(Provenance.now(process_device(), torch.get_num_threads()))
        write_json(path, {"run": self.run.to_dict(), "classes": self.classes, "provenance": provenance})

    def restore(self, state: State) -> dict[str, Any]:
        progress = state.load(self.folder / "state.safetensors") if self.resumes else {}
        self.seconds = progress.get("seconds", 0.0)
        self._since = self._saved = time.monotonic()
        metrics = self.folder / "metrics.jsonl"
        if self.is_main and metrics.exists():
            write_whole(metrics, "".join(f"{line}\n" for line in _lines_until(metrics, progress.get("step", 0))))
        return progress

    def save(self, state: State, progress: dict[str, Any], loss: Tensor) -> None:
        if self.is_main:
            self.describe()
        now = time.monotonic()
        if progress["epoch_ends"] or now - self._saved > self.save_every_s:
            self.seconds += now - self._since
            self._since = self._saved = now
            if self.is_main:
                check_loss(float(loss), f"at step {progress['step']}")
                state.save(self.folder / "state.safetensors", progress | {"seconds": self.seconds})

    def save_best(self, model: nn.Module) -> None:
        self._save("best.safetensors", model)

    def save_last(self, model: nn.Module) -> None:
        self._save("last.safetensors", model)

    def log(self, values: dict[str, Any]) -> None:
        if not self.is_main:
            return
        self.describe()
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if SummaryWriter is not None:
            if self._tensorboard is None:
                self._tensorboard = SummaryWriter(self.folder / "tensorboard", purge_step=values["step"])
            for name in values.keys() - {"step"}:
                self._tensorboard.add_scalar(name, values[name], values["step"])
            self._tensorboard.flush()

    def _save(self, name: str, model: nn.Module) -> None:
        if not self.is_main:
            return
        check_finite(model.state_dict(), f"in the network to save as {name}")
        factory, arguments = factory_of(self.run.recipe, self.run.row, self.num_classes)
        save(model, self.folder / name, factory=factory, factory_args=without_weights(factory, arguments))


def _difference(saved: Any, current: Any, path: str = "") -> str:
    """Describe the first difference between two dictionaries."""
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in [*saved, *current]:
            if saved.get(key) != current.get(key):
                return _difference(saved.get(key), current.get(key), f"{path}.{key}" if path else key)
    return f"its {path} is {saved!r}, not {current!r}"


def _lines_until(metrics: Path, step: int) -> list[str]:
    """Return the lines up to a step, without lines that a killed run left incomplete."""
    kept: list[str] = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if not json.loads(line)["step"] <= step:
                break
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        kept.append(line)
    return kept

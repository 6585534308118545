"""What a training resumes from: one safetensors file with weights, optimizer, moving average and progress."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from cnnmod.records.files import write_whole

_FORMAT = 1


@dataclass(frozen=True)
class State:
    """All that changes while a network trains.

    There is no state of random generators, since each step and each epoch seeds them afresh.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None
    scaler: torch.amp.GradScaler

    def save(self, path: Path, progress: dict[str, Any]) -> None:
        """Write it all, with JSON values that say how far the training is; whole or not at all.

        Raises:
            OSError: It cannot be written; what was there before is still there.
        """
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        numbers: dict[str, Any] = {}
        holders = [(f"optimizer.{key}", values) for key, values in optimizer["state"].items()]
        holders += [(f"group.{number}", group) for number, group in enumerate(optimizer["param_groups"])]
        for holder, values in holders:
            for name, value in values.items():
                (tensors if isinstance(value, Tensor) else numbers)[f"{holder}.{name}"] = value
        metadata = {
            "format": _FORMAT,
            "progress": progress,
            "numbers": numbers,
            "scaler": self.scaler.state_dict(),
        }
        flat = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        write_whole(path, serialize(flat, metadata={"cnnmod-state": json.dumps(metadata)}))

    def load(self, path: Path) -> dict[str, Any]:
        """Take all from a file that `save` wrote, and return the progress.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is no such file, or of another network or optimizer.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = json.loads((file.metadata() or {})["cnnmod-state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is no state of a training: {error}") from error
        if metadata["format"] != _FORMAT:
            raise ValueError(f"{path} has format {metadata['format']}; this cnnmod reads format {_FORMAT}")
        try:
            self.model.load_state_dict(_under("model.", tensors))
            if self.average is not None:
                self.average.load_state_dict(_under("average.", tensors))
            self._load_optimizer(tensors | metadata["numbers"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is of another network or optimizer: {error}") from error
        if metadata["scaler"]:
            self.scaler.load_state_dict(metadata["scaler"])
        return metadata["progress"]

    def _load_optimizer(self, values: dict[str, Any]) -> None:
        entries = _by_number(_under("optimizer.", values))
        groups = list(_by_number(_under("group.", values)).values())
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        for parameter, state in self.optimizer.state.items():
            for name, value in state.items():  # safetensors knows no memory formats
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()


def _under(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _by_number(values: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """`{"0.a": x, "0.b": y}` as `{0: {"a": x, "b": y}}`."""
    entries: dict[int, dict[str, Any]] = {}
    for name, value in values.items():
        number, _, inner = name.partition(".")
        entries.setdefault(int(number), {})[inner] = value
    return dict(sorted(entries.items()))

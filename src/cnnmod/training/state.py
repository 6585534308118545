"""The state of a training: one safetensors file with weights, optimizer, moving average and progress."""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save as serialize
from torch import Tensor, nn

from cnnmod.records.files import write_whole
from cnnmod.records.tensors import read_tensors

_FORMAT = 2
_ADVICE = "try a lower learning rate, a longer warm-up or clip_grad"


def check_loss(loss: float, location: str) -> None:
    """Check the loss of a step.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} {location}; {_ADVICE}")


def check_finite(tensors: Mapping[str, Tensor], location: str) -> None:
    """Check that tensors are finite before they are written.

    Raises:
        FloatingPointError: If a tensor has a value that is not finite. The error names the tensor.
    """
    for name, values in tensors.items():
        if not values.isfinite().all():
            raise FloatingPointError(f"{name} has values that are not finite {location}; {_ADVICE}")


@dataclass(frozen=True)
class State:
    """Everything that changes during training.

    The state of random generators is not saved, since each step and each epoch seeds them.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None
    scaler: torch.amp.GradScaler

    def save(self, path: Path, progress: dict[str, Any]) -> None:
        """Write the state and the progress atomically.

        Args:
            path: The file to write.
            progress: JSON values that describe the progress of the training.

        Raises:
            OSError: If the file cannot be written. An existing file is kept.
            FloatingPointError: If weights, moving average, optimizer or scaler are not finite. Nothing is written.
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
        metadata: dict[str, Any] = {
            "format": _FORMAT,
            "progress": progress,
            "numbers": numbers,
            "scaler": self.scaler.state_dict(),
        }
        flat = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        location = f"at step {progress.get('step', 0)}"
        check_finite(flat, location)
        if not 0 < self.scaler.get_scale() < math.inf:
            raise FloatingPointError(f"the loss scale of fp16 is {self.scaler.get_scale()} {location}; {_ADVICE}")
        metadata["checksum"] = _checksum(flat, metadata)
        write_whole(path, serialize(flat, metadata={"cnnmod-state": json.dumps(metadata)}))

    def load(self, path: Path) -> dict[str, Any]:
        """Load the state from a file that `save` wrote, and return the progress.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the file is not a state, is damaged, or belongs to another network or optimizer.
        """
        try:
            entries, tensors = read_tensors(path)
            metadata = json.loads(entries["cnnmod-state"])
            file_format, checksum = metadata["format"], metadata.pop("checksum", None)
        except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a training state: {error}") from error
        if file_format != _FORMAT:
            raise ValueError(f"{path} has format {file_format}; this version of cnnmod reads format {_FORMAT}")
        if checksum != _checksum(tensors, metadata):
            raise ValueError(f"{path} is damaged: the checksum does not match the content")
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
            for name, value in state.items():  # safetensors does not store memory formats
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()


def _checksum(tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> int:
    """Return the CRC-32 checksum of the tensors and the metadata."""
    shapes = {name: (str(values.dtype), list(values.shape)) for name, values in tensors.items()}
    checksum = zlib.crc32(json.dumps([metadata, shapes], sort_keys=True).encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def _under(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _by_number(values: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Convert `{"0.a": x, "0.b": y}` to `{0: {"a": x, "b": y}}`."""
    entries: dict[int, dict[str, Any]] = {}
    for name, value in values.items():
        number, _, inner = name.partition(".")
        entries.setdefault(int(number), {})[inner] = value
    return dict(sorted(entries.items()))

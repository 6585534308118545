"""The folder of a tuning: its settings and the results of finished stages."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from cnnmod.records.files import make_folder, write_json
from cnnmod.records.parse import parse, read_values
from cnnmod.tuning.space import Space

T = TypeVar("T")
_SCHEMA = "cnnmod tune 2"


@dataclass(frozen=True)
class Settings:
    """What the results of a folder depend on. The budget is not part of it.

    Attributes:
        network: The name of the network's class.
        blocks: The labels of the choices of each block.
        runtime: The runtime.
        image_shape: The shape of the images that are timed, with the batch size.
        threads: The number of threads.
        rounds: How many times each network is timed.
    """

    network: str
    blocks: dict[str, list[str]]
    runtime: str
    image_shape: list[int]
    threads: int
    rounds: int


def hash_of(model: nn.Module) -> str:
    """Return a hash of the weights of a network."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class TuneFolder:
    """A folder with one file for each stage. Each file is written whole."""

    path: Path

    def check(self, settings: Settings) -> None:
        """Write the settings, or check that the folder has the same.

        Raises:
            OSError: If the folder cannot be created or written to.
            ValueError: If the folder is of another tuning (the message has the first difference), or contains other
                files.
        """
        make_folder(self.path)
        present = self.read("settings", Settings)
        if present is None:
            if names := [path.name for path in self.path.iterdir() if not path.name.startswith(".")]:
                raise ValueError(
                    f"{self.path} is neither a folder of tune nor empty: it contains {min(names)}; use another folder"
                )
            self.write("settings", settings)
            return
        for name, value in vars(settings).items():
            if (other := getattr(present, name)) != value:
                if name == "blocks":
                    first = next(key for key in [*other, *value] if other.get(key) != value.get(key))
                    name, other, value = f"block {first}", other.get(first), value.get(first)
                raise ValueError(
                    f"{self.path} is of another tuning: {name} was {other}, not {value}; use another folder"
                )

    def read(self, stage: str, expected: type[T]) -> T | None:
        """Return the result of a stage, or `None` if it has no file.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the file is not valid.
        """
        file = self.file(stage)
        if not file.exists():
            return None
        try:
            values = read_values(file, f"{_SCHEMA} {stage}")
        except ValueError as error:
            raise ValueError(f"{error}; run tune in a new folder") from error
        return parse(expected, values, str(file))

    def write(self, stage: str, result: Any) -> None:
        """Write the result of a stage, a dataclass."""
        fields = result.to_dict() if isinstance(result, Space) else dataclasses.asdict(result)
        write_json(self.file(stage), {"schema": f"{_SCHEMA} {stage}", **fields})

    def file(self, stage: str) -> Path:
        """Return the path of the file of a stage."""
        return self.path / f"{stage}.json"

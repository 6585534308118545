"""Choices: what becomes of each block of a network, and the file in which it is stored."""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from cnnmod.method.config import MoDConfig
from cnnmod.records.files import write_json
from cnnmod.records.parse import parse, read_values

SCHEMA = "cnnmod plan 1"
SKIP: Literal["skip"] = "skip"
Choice: TypeAlias = MoDConfig | Literal["skip"] | None
BlockChoices: TypeAlias = Mapping[str, Choice] | Callable[[str], Choice] | str | os.PathLike[str]


@dataclass(frozen=True)
class Choices(Mapping[str, Choice]):
    """What becomes of each block of one network: a MoD block, the identity, or the block itself.

    It is a mapping from names to choices. `convert_` checks that the names and the channels are those of its network.

    Attributes:
        choices: A `MoDConfig`, `"skip"` (the identity), or `None` (keep the block), by the name of the block. It has
            all blocks that can be replaced, in the order of the network.
        channels: The number of channels of each block, by its name.

    Examples:
        >>> choices = Choices({"layer1.1": MoDConfig(c=16), "layer1.2": None}, {"layer1.1": 64, "layer1.2": 64})
        >>> Choices.from_dict(choices.to_dict()) == choices
        True
    """

    choices: Mapping[str, Choice]
    channels: Mapping[str, int]

    def __post_init__(self) -> None:
        if list(self.choices) != list(self.channels):
            raise ValueError("choices and channels must have the same names")
        for name, choice in self.choices.items():
            check_choice(name, choice)

    @property
    def has_mod_blocks(self) -> bool:
        """Whether a block becomes a MoD block."""
        return any(isinstance(choice, MoDConfig) for choice in self.choices.values())

    def __getitem__(self, name: str) -> Choice:
        return self.choices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.choices)

    def __len__(self) -> int:
        return len(self.choices)

    def to_dict(self) -> dict[str, Any]:
        """Return the choices as JSON values. `from_dict` reads them."""
        return {
            name: {"channels": self.channels[name], "choice": choice_to_json(choice)}
            for name, choice in self.choices.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Choices":
        """Return the choices that `to_dict` wrote.

        Raises:
            ValueError: If a value is not valid. The message names the block.
        """
        blocks: dict[str, _StoredBlock] = {
            name: parse(_StoredBlock, value, f"block {name}") for name, value in values.items()
        }
        choices: dict[str, Choice] = {name: choice_from_json(name, block.choice) for name, block in blocks.items()}
        return cls(choices, {name: block.channels for name, block in blocks.items()})

    def check_network(self, network: str, channels: Mapping[str, int]) -> None:
        """Check that the choices are of a network.

        Args:
            network: The name of the network, for the error.
            channels: The channels of all of its blocks that can be replaced, by name.

        Raises:
            ValueError: If a name or a number of channels differs. The message has the first one.
        """
        for name in [*self.channels, *channels]:
            planned, present = self.channels.get(name), channels.get(name)
            if planned != present:
                in_plan = "not in the plan" if planned is None else f"{planned} channels wide in the plan"
                in_network = "not a block of the network" if present is None else f"{present} in the network"
                raise ValueError(f"the plan is of another network than {network}: {name} is {in_plan}, {in_network}")


@dataclass(frozen=True)
class _StoredBlock:
    channels: int
    choice: Any


def write_plan(choices: Choices, path: str | os.PathLike[str], **notes: Any) -> None:
    """Write the choices as a JSON file, which `convert_` and `cnnmod train --plan` take.

    Args:
        choices: The choices.
        path: The file.
        notes: JSON values that are stored with the choices, for readers of the file.

    Raises:
        OSError: If the file cannot be written.
    """
    write_json(path, {"schema": SCHEMA, "blocks": choices.to_dict(), "notes": notes})


def read_plan(path: str | os.PathLike[str]) -> Choices:
    """Read a file of `write_plan`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a plan. The message names the first value that is not valid.

    Examples:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "plan.json"
        >>> write_plan(Choices({"layer1.1": "skip"}, {"layer1.1": 64}), path)
        >>> read_plan(path)["layer1.1"]
        'skip'
    """
    values = read_values(path, SCHEMA)
    if not isinstance(values.get("blocks"), dict):
        raise ValueError(f"{path}: blocks must be a JSON object")
    try:
        return Choices.from_dict(values["blocks"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_choice(name: str, choice: object) -> None:
    """Raise `ValueError` if a value is not a choice."""
    if not (choice is None or isinstance(choice, MoDConfig) or (isinstance(choice, str) and choice == SKIP)):
        raise ValueError(f"the choice for {name} must be a MoDConfig, 'skip' or None (keep the block), not {choice!r}")


def check_names(network: str, choices: Mapping[str, Choice], blocks: Mapping[str, bool]) -> None:
    """Check that all names are names of blocks.

    Args:
        network: The name of the network, for the error.
        choices: The choices by name.
        blocks: The names of the network's blocks, each with whether it is the first of its module.

    Raises:
        ValueError: If a name is not a block (the message has the nearest one), or must stay a standard block.
    """
    for name, choice in choices.items():
        if name not in blocks:
            nearest = difflib.get_close_matches(str(name), blocks, n=1, cutoff=0)
            raise ValueError(f"{name} is not a block of {network}; the nearest is {nearest[0]}")
        if blocks[name] and choice is not None:
            raise ValueError(f"{name} is the first block of its module, which always stays; choose None for it")


def choice_to_json(choice: Choice) -> Any:
    """Return a choice as a JSON value. `choice_from_json` reads it."""
    return choice.to_dict() if isinstance(choice, MoDConfig) else choice or "keep"


def choice_from_json(name: str, value: Any) -> Choice:
    """Return the choice of a block from a value of `choice_to_json`.

    Raises:
        ValueError: If the value is not valid. The message has the name of the block.
    """
    if isinstance(value, dict):
        return parse(MoDConfig, value, f"block {name}: choice")
    if value not in ("keep", SKIP):
        raise ValueError(f"block {name}: choice must be 'keep', 'skip' or the fields of a MoDConfig, not {value!r}")
    return None if value == "keep" else SKIP

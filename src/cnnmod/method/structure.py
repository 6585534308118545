"""Structure: the description of a network in a file of `save`, next to its weights."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from cnnmod.method.choices import SKIP, Choice
from cnnmod.method.config import MoDConfig
from cnnmod.records.tensors import read_tensors
from cnnmod.records.weights_file import PICKLES, read_start

FORMAT = 2  # format 2 has skipped blocks; a file without them is written in format 1
FACTORY = re.compile(r"(timm|torchvision|cnnmod)/[^/:]+|[\w.]+:\w+")


class Structure(NamedTuple):
    """The description of the network in a file.

    Attributes:
        blocks: The config of each MoD block, by the block's qualified name.
        skipped: The names of the blocks that `convert_` has replaced by the identity.
        control: Whether the network is a control, in which the MoD blocks are replaced by the identity.
        factory: The factory's name that was passed to `save`.
        factory_args: The factory's arguments.
    """

    blocks: dict[str, MoDConfig]
    skipped: list[str]
    control: bool
    factory: str | None
    factory_args: dict[str, Any]

    @property
    def config(self) -> MoDConfig | dict[str, Choice]:
        """The config with which `convert_` makes this structure: one for all blocks, or one for each block."""
        configs = list(self.blocks.values())
        if configs and not self.skipped and all(config == configs[0] for config in configs):
            return configs[0]
        return {**self.blocks, **dict.fromkeys(self.skipped, SKIP)}


def read_structure(path: str | os.PathLike[str]) -> Structure:
    """Read the description of the network in a file, without its weights.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If `save` did not write the file, or its format is newer than this cnnmod.
    """
    return read_file(Path(path), tensors=False)[0]


def shape_difference(names: Iterable[str], model: Mapping[str, Tensor], file: Mapping[str, Tensor]) -> str | None:
    """Return the first of these tensors that is missing or has another shape on one side, as text, or `None`."""
    for name in names:
        ours, theirs = (tuple(side[name].shape) if name in side else "missing" for side in (model, file))
        if ours != theirs:
            return f"{name} is {theirs} in the file, {ours} in the model"
    return None


def read_file(path: Path, tensors: bool = True) -> tuple[Structure, dict[str, Tensor]]:
    """Return the description in a file and, if wanted, its tensors. Raises as `read_structure`."""
    start = read_start(path)
    try:
        metadata, state = read_tensors(path, tensors)
    except SafetensorError as error:
        if start.startswith(PICKLES):
            message = f"{path} is a pickle (torch.save), which can run code; cnnmod reads only files of cnnmod.save"
        else:
            message = f"{path} is truncated or not a safetensors file: {' '.join(str(error).split())}"
        raise ValueError(message) from error
    if "cnnmod" not in metadata:
        raise ValueError(f"{path} was not written by cnnmod.save: its metadata has no entry 'cnnmod'")
    try:
        structure = json.loads(metadata["cnnmod"])
        if structure["format"] <= FORMAT:
            blocks = {name: MoDConfig.from_dict(values) for name, values in structure["blocks"].items()}
            factory = structure.get("factory", {"name": None, "args": {}})
            if not (factory["name"] is None or FACTORY.fullmatch(factory["name"])):
                raise ValueError(factory["name"])
            if not isinstance(factory["args"], dict):
                raise ValueError(factory["args"])
            control, skipped = bool(structure.get("control")), structure.get("skipped", [])
            if not (isinstance(skipped, list) and all(isinstance(name, str) for name in skipped)):
                raise ValueError(skipped)
            if len({*blocks, *skipped}) < len(blocks) + len(skipped):
                raise ValueError(skipped)
            return Structure(blocks, skipped, control, factory["name"], dict(factory["args"])), state
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: the entry 'cnnmod' of its metadata was not written by cnnmod.save") from error
    raise ValueError(f"{path} has format {structure['format']}; this version of cnnmod reads formats up to {FORMAT}")

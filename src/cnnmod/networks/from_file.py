"""load: a network from a file that names its factory."""

import os
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from cnnmod.method.checkpoint import load_, read_structure
from cnnmod.method.convert import control_, mod_blocks
from cnnmod.networks.registry import factory_of, takes_config

_FETCHES = re.compile(r"pretrained|weights|checkpoint|path|file|url|dir|cfg")


def load(path: str | os.PathLike[str], *, factory: Callable[..., nn.Module] | None = None) -> nn.Module:
    """Rebuild the network of a file that `cnnmod.save(model, path, factory=…)` wrote, structure and weights.

    Nothing is fetched, and no code runs but that of timm, torchvision and cnnmod.

    Args:
        path: The file.
        factory: Builds the dense network instead of what the file names; it gets the file's `factory_args`. Needed
            for a factory of your own: a file may not say what is imported.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file names no factory, one outside timm, torchvision and cnnmod, or arguments that may fetch
            or read other files; or what `cnnmod.load_` raises.

    Examples:
        >>> import cnnmod, pathlib, tempfile, timm
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "resnet18_mod.safetensors"
        >>> arguments = {"num_classes": 10}
        >>> model = cnnmod.convert_(timm.create_model("resnet18", **arguments))
        >>> cnnmod.save(model, path, factory="timm/resnet18", factory_args=arguments)
        >>> len(cnnmod.mod_blocks(load(path)))
        4
    """
    structure = read_structure(path)
    name, arguments = structure.factory, structure.factory_args
    if factory is None:
        if name is None:
            raise ValueError(f"{path} names no factory; pass one, load(path, factory=…), or use cnnmod.load_")
        if ":" in name or not name.startswith(("timm/", "torchvision/", "cnnmod/")):
            raise ValueError(
                f"{path} was made by {name!r}; from a file only factories of timm, torchvision and cnnmod are "
                f"called. Pass it yourself: load(path, factory=…)"
            )
        if (refused := _refused(arguments)) is not None:
            raise ValueError(f"{path}: the factory's argument {refused!r} may fetch, import or read other files")
        factory = factory_of(name)
        if takes_config(name) and structure.blocks:
            arguments = arguments | {"config": next(iter(structure.blocks.values()))}
    try:
        model = factory(**arguments)
    except Exception as error:  # whatever a constructor raises at a file's arguments
        raise ValueError(f"{path}: its factory does not take {arguments}: {' '.join(str(error).split())}") from error
    if structure.control and mod_blocks(model):
        control_(model)
    return load_(model, path)


def _refused(value: Any, name: str = "") -> str | None:
    """The first of a file's arguments, JSON values, that a factory might fetch, import or read something for."""
    entries: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        if (fetches := next(filter(_FETCHES.search, value), None)) is not None:
            return fetches
        entries = list(value.items())
    elif isinstance(value, list):
        entries = [(name, one) for one in value]
    elif isinstance(value, str) and ":" in value:
        return name
    return next((inner for key, one in entries if (inner := _refused(one, key)) is not None), None)

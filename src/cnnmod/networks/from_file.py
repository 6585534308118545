"""load: rebuild a network from a file that names its factory."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from cnnmod.method.checkpoint import load_
from cnnmod.method.convert import control_, mod_blocks
from cnnmod.method.structure import Structure, read_structure
from cnnmod.method.trace import example_for
from cnnmod.networks.registry import factory_of, takes_config
from cnnmod.records.parse import read_json
from cnnmod.records.weights_file import file_hint

CONFIG, WEIGHTS, ARCHITECTURE = "config.json", "model.safetensors", "hub_network"  # a folder of `HubNetwork`
_UNSAFE_ARGUMENT = re.compile(r"pretrained|weights|checkpoint|path|file|url|dir|cfg")


def load(
    path: str | os.PathLike[str],
    *,
    factory: str | Callable[..., nn.Module] | None = None,
    size: tuple[int, int] | None = None,
) -> nn.Module:
    """Rebuild the network, structure and weights, from a file of `cnnmod.save(model, path, factory=…)`.

    Nothing is downloaded. Without `factory`, only the factories of timm, torchvision and cnnmod are called.

    Args:
        path: The file, or a folder that `HubNetwork.save_pretrained` wrote.
        factory: A function that builds the network before it is converted, or its name, as `build` takes it. It is
            called with the file's `factory_args`. Name your own factories here, because a file must not decide which
            code is imported.
        size: Height and width of the images, for a network that does not run at its default size.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file names no factory, names a factory outside of timm, torchvision and cnnmod, has factory
            arguments that could download or read other files, or if `cnnmod.load_` raises the error.

    Examples:
        >>> import cnnmod, pathlib, tempfile, timm
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "resnet18_mod.safetensors"
        >>> arguments = {"num_classes": 10}
        >>> model = cnnmod.convert_(timm.create_model("resnet18", **arguments))
        >>> cnnmod.save(model, path, factory="timm/resnet18", factory_args=arguments)
        >>> len(cnnmod.mod_blocks(load(path)))
        4
    """
    path = weights_in(Path(path))
    structure = read_structure(path)
    model = built(path, structure, factory)
    if structure.control and mod_blocks(model):
        control_(model)
    return load_(model, path, example=None if size is None else example_for(model, size))


def weights_in(path: Path) -> Path:
    """Return the file with the weights of a folder of `HubNetwork.save_pretrained`. Return a file as it is.

    Raises:
        OSError: If the folder has no `config.json`, or it cannot be read.
        ValueError: If the folder was written by another library.
    """
    if not path.is_dir():
        return path
    if not (path / CONFIG).is_file():
        raise FileNotFoundError(
            f"{path} is not a folder of HubNetwork.save_pretrained: it has no {CONFIG}{file_hint(path)}"
        )
    config = read_json(path / CONFIG)
    config = config if isinstance(config, dict) else {}
    if config.get("architecture") != ARCHITECTURE:
        other = next((config[key] for key in ("architecture", "architectures", "model_type") if key in config), None)
        raise ValueError(
            f"{path} is a folder of another library: the architecture in its {CONFIG} is {other!r}, not "
            f"{ARCHITECTURE!r}; build the network with that library and convert it"
        )
    return path / WEIGHTS


def build_dense(path: str | os.PathLike[str], factory: str | None = None) -> nn.Module:
    """Build the network of a file as it was before conversion, with initial weights.

    Args:
        path: A file of `cnnmod.save(model, path, factory=…)`.
        factory: As for `load`.

    Raises:
        OSError: As `load`.
        ValueError: As `load`.
    """
    path = weights_in(Path(path))
    return built(path, read_structure(path), factory)


def built(
    path: str | os.PathLike[str], structure: Structure, factory: str | Callable[..., nn.Module] | None
) -> nn.Module:
    """Build the network that a file describes, before it is converted. The path is for errors.

    Raises:
        ValueError: As `load`.
    """
    arguments = structure.factory_args
    name = structure.factory if factory is None else factory if isinstance(factory, str) else None
    if factory is None:
        if name is None:
            raise ValueError(
                f"{path} names no factory; name it with --network, pass it to load(path, factory=…), or use "
                "cnnmod.load_"
            )
        if ":" in name or not name.startswith(("timm/", "torchvision/", "cnnmod/")):
            raise ValueError(
                f"{path} names the factory {name!r}, but a file may name only factories of timm, torchvision and "
                f"cnnmod; name yours: --network {name}, or in Python load(path, factory={name!r})"
            )
        if (refused := _refused(arguments)) is not None:
            raise ValueError(f"{path}: the factory's argument {refused!r} could download, import or read other files")
    make = factory_of(name) if name is not None else factory
    assert callable(make)
    if name is not None and takes_config(name) and (structure.blocks or structure.skipped):
        arguments = arguments | {"config": structure.config}
    try:
        return make(**arguments)
    except Exception as error:  # a constructor may raise anything for the file's arguments
        raise ValueError(f"{path}: its factory does not accept {arguments}: {' '.join(str(error).split())}") from error


def _refused(value: Any, name: str = "") -> str | None:
    """Return the name of the first argument with which a factory could download, import or read files.

    Args:
        value: The arguments (JSON values), or a value inside them.
        name: The name of this value.
    """
    entries: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        if (refused := next(filter(_UNSAFE_ARGUMENT.search, value), None)) is not None:
            return refused
        entries = list(value.items())
    elif isinstance(value, list):
        entries = [(name, item) for item in value]
    elif isinstance(value, str) and ":" in value:  # a URL, or `package.module:function`
        return name
    return next((inner for key, item in entries if (inner := _refused(item, key)) is not None), None)

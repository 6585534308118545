"""A network by the name of its factory, and from a file that names one."""

import difflib
import importlib
import inspect
import os
import re
from collections.abc import Callable
from typing import Any

import timm
import torchvision
from torch import nn

from cnnmod.method.checkpoint import load_, read_structure
from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import control_, convert_, mod_blocks
from cnnmod.networks import cifar, classification  # registers the names
from cnnmod.networks.detection import NETWORKS as DETECTORS
from cnnmod.networks.segmentation import NETWORKS as SEGMENTERS

OVER_BACKBONES = SEGMENTERS | DETECTORS  # made of a backbone, and no timm networks
_FETCHES = re.compile(r"pretrained|weights|checkpoint|path|file|url|dir|cfg")


def build(name: str, **kwargs: Any) -> nn.Module:
    """The network that a factory makes, without pretrained weights unless they are asked for.

    Args:
        name: `"NAME"` or `"timm/NAME"` of cnnmod's networks and timm's own, `"cnnmod/NAME"`, `"torchvision/NAME"`,
            or `"package.module:factory"`, which imports the module and calls the function.
        kwargs: What the factory is given.

    Raises:
        ValueError: An unknown name, with the nearest ones; arguments of which the factory makes no network; or a
            function of one's own does not take `kwargs` alone, or returned no network.

    Example:
        >>> type(build("torchvision/resnet18", num_classes=10)).__module__
        'torchvision.models.resnet'
        >>> build("resnet75_md")
        Traceback (most recent call last):
        ...
        ValueError: unknown network 'resnet75_md'; did you mean resnet75_mod, resnet50_mod?
    """
    factory = _factory_of_user(name) if ":" in name else _factory(name)
    if ":" in name or factory in OVER_BACKBONES.values():
        _check_call(name, factory, kwargs)
    try:
        model = factory(**kwargs)
    except (OSError, ValueError):
        raise
    except Exception as error:  # whatever a constructor raises at arguments that are no network's
        if ":" in name:  # the caller's own, who wants to see where
            raise
        raise ValueError(f"{name} cannot be built with {kwargs}: {' '.join(str(error).split())}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


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

    Example:
        >>> import cnnmod, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "resnet18_mod.safetensors"
        >>> arguments = {"num_classes": 10}
        >>> model = cnnmod.convert_(build("timm/resnet18", **arguments))
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
        factory = _factory(name)
        if _converts(name) and structure.blocks:
            arguments = arguments | {"config": next(iter(structure.blocks.values()))}
    try:
        model = factory(**arguments)
    except Exception as error:  # whatever a constructor raises at a file's arguments
        raise ValueError(f"{path}: its factory does not take {arguments}: {' '.join(str(error).split())}") from error
    if structure.control and mod_blocks(model):
        control_(model)
    return load_(model, path)


def build_mod(name: str, config: MoDConfig, **kwargs: Any) -> nn.Module:
    """The MoD network of this name: one of cnnmod's, or any other that `build` takes, converted.

    Example:
        >>> len(mod_blocks(build_mod("resnet18", MoDConfig(order="index"))))
        4
    """
    return build(name, config=config, **kwargs) if _converts(name) else convert_(build(name, **kwargs), config)


def factory_name(name: str) -> str:
    """The name with its library, as `cnnmod.save` wants a factory named.

    Example:
        >>> factory_name("resnet18"), factory_name("resnet18_mod")
        ('timm/resnet18', 'cnnmod/resnet18_mod')
    """
    if "/" in name or ":" in name:
        return name
    return f"{'cnnmod' if name in _ours() else 'timm'}/{name}"


def _converts(name: str) -> bool:
    """Whether the factory of this name makes a MoD network itself, and takes a config."""
    library, _, network = name.rpartition("/")
    return library in ("", "cnnmod") and network in _ours() and "_mod" in network


def _ours() -> list[str]:
    return [*classification.default_cfgs, *cifar.default_cfgs, *OVER_BACKBONES]


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


def _factory(name: str) -> Callable[..., nn.Module]:
    library, _, network = name.rpartition("/")
    if library == "torchvision":
        known, factory = torchvision.models.list_models(), _factory_of_torchvision(network)
    elif library == "cnnmod":
        known, factory = _ours(), OVER_BACKBONES.get(network) or _factory_of_timm(network)
    elif library == "":
        known, factory = [*_ours(), *timm.list_models()], OVER_BACKBONES.get(network) or _factory_of_timm(network)
    elif library == "timm":
        known, factory = [*_ours(), *timm.list_models()], _factory_of_timm(network)
    else:
        raise ValueError(
            f"unknown network {name!r}; a name is NAME, timm/NAME, torchvision/NAME, cnnmod/NAME or "
            "package.module:factory"
        )
    if (network.partition(".")[0] if library in ("", "timm") else network) not in known:  # timm's resnet50.a1_in1k
        nearest = dict.fromkeys(difflib.get_close_matches(network, known, n=3))
        hint = (
            f"did you mean {', '.join(f'{library}/{name}' if library else name for name in nearest)}?"
            if nearest
            else "see timm.list_models('*_mod')"
        )
        raise ValueError(f"unknown network {name!r}; {hint}")
    return factory


def _factory_of_timm(network: str) -> Callable[..., nn.Module]:
    return lambda **kwargs: timm.create_model(network, **kwargs)


def _factory_of_torchvision(network: str) -> Callable[..., nn.Module]:
    def factory(**kwargs: Any) -> nn.Module:
        accepted = inspect.signature(torchvision.models.get_model_builder(network)).parameters
        backbone = {"weights_backbone": None} if "weights_backbone" in accepted else {}  # its default fetches
        return torchvision.models.get_model(network, **(backbone | kwargs))

    return factory


def _factory_of_user(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r} names no function: {error}") from error
    if not callable(factory):
        raise ValueError(f"{name!r} is a {type(factory).__name__}, not a function that builds a network")
    return factory


def _check_call(name: str, factory: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    try:
        inspect.signature(factory).bind(**kwargs)
    except TypeError as error:
        raise ValueError(f"{name!r} cannot be called with the arguments {kwargs}: {error}") from error

"""open_network, build_with_weights: networks and weights of the user, by name and file."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from cnnmod.networks.from_file import CONFIG, load
from cnnmod.networks.registry import accepts, build
from cnnmod.networks.weights import load_weights_, other_head, read_weights

logger = logging.getLogger("cnnmod")


def is_checkpoint(name: str) -> bool:
    """Whether a name is the path of a checkpoint or hub folder instead of the name of a network."""
    return name.endswith(".safetensors") or (Path(name) / CONFIG).is_file()


def open_network(
    name: str | None = None,
    *,
    network: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    size: tuple[int, int] | None = None,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """Build a network by name, with weights from a file if there is one, or load a checkpoint of cnnmod.

    Args:
        name: The name of a network, or the path of a checkpoint (`.safetensors`).
        network: The name of the factory of the checkpoint. Without a checkpoint, the name of the network.
        weights: A file with a state dict for the network.
        size: Height and width of the images, for a checkpoint whose network does not run at its default size.
        arguments: The arguments of the factory, for the name of a network.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If no network or two networks are named, `weights` or `arguments` are given for a checkpoint, or as
            `build`, `load` and `load_weights_`.

    Examples:
        >>> import pathlib, tempfile, torch
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.pth"
        >>> torch.save(build("resnet18", num_classes=7).state_dict(), path)
        >>> open_network("timm/resnet18", weights=path).num_classes
        7
    """
    if name is not None and is_checkpoint(name):
        if weights is not None:
            raise ValueError(f"--weights is for the name of a network; the checkpoint {name} has its own weights")
        if arguments:
            raise ValueError(f"network_args are for the name of a network; the checkpoint {name} has its own arguments")
        return load(Path(name), factory=network, size=size)
    if name is not None and network is not None:
        if Path(name).exists() or ".safetensors" in name:
            raise ValueError(f"{name} is not a checkpoint, which is a .safetensors file that exists")
        raise ValueError(f"two networks are named, {name} and --network {network}; name one")
    if name is None and network is None:
        raise ValueError("name a network, such as resnet75_mod, timm/resnet18 or --network package.module:factory")
    return build_with_weights(str(name or network), weights, arguments)


def build_with_weights(
    name: str, weights: str | os.PathLike[str] | None, arguments: Mapping[str, Any] = MappingProxyType({})
) -> nn.Module:
    """Build a network by name, and load weights from a file.

    If the file has another number of classes than the network, and the factory takes `num_classes`, the network is
    built with the classes of the file. This is logged (logger `cnnmod`).

    Args:
        name: The name of the network, as `build` takes it.
        weights: A file, as `load_weights_` takes it. `None` keeps the initial weights.
        arguments: The arguments of the factory.

    Raises:
        OSError: As `load_weights_`.
        ValueError: As `build` and `load_weights_`.
    """
    model = build(name, **arguments)
    if weights is None:
        return model
    tensors = read_weights(weights)
    head = other_head(model, tensors)
    if head is not None and "num_classes" not in arguments and accepts(name, "num_classes"):
        model = build(name, **arguments, num_classes=head.file_classes)
        logger.warning("%s is built with the %d classes of %s", name, head.file_classes, weights)
    load_weights_(model, weights, tensors=tensors)
    return model

"""A network by its name."""

import difflib
from typing import Any

import timm
from torch import nn

import cnnmod.networks.classification  # registers the names


def build(name: str, **kwargs: Any) -> nn.Module:
    """`timm.create_model(name, **kwargs)` without pretrained weights, over cnnmod's networks and timm's own.

    Raises:
        ValueError: An unknown name, with the nearest ones.

    Example:
        >>> build("resnet75_md")
        Traceback (most recent call last):
        ...
        ValueError: unknown network 'resnet75_md'; did you mean resnet75_mod, resnet50_mod?
    """
    if not timm.is_model(name):
        names = [*cnnmod.networks.classification.default_cfgs, *timm.list_models()]
        nearest = list(dict.fromkeys(difflib.get_close_matches(name, names, n=3)))
        hint = f"did you mean {', '.join(nearest)}?" if nearest else "see timm.list_models('*_mod')"
        raise ValueError(f"unknown network {name!r}; {hint}")
    return timm.create_model(name, **kwargs)

"""timm_network: register a network of the paper with cnnmod and with timm.

`timm.create_model(name)` takes timm's usual arguments (`num_classes`, `in_chans`, `features_only`, …) and, for a MoD
network, a `MoDConfig` as `config`, or its fields (`candidates=4`). timm knows the name after `import cnnmod.networks`.
Before, it raises "Unknown model", because timm has no entry point from which it could load the names of other packages.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from cnnmod.method.choices import SKIP, Choice
from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import convert_
from cnnmod.networks.registry import register


class Dense(NamedTuple):
    """The constructor of a dense network and its arguments.

    Attributes:
        make: timm's class, or a function that returns the network.
        settings: Its arguments.
        out_indices: The stages that `features_only` returns.
    """

    make: Callable[..., nn.Module]
    settings: dict[str, Any]
    out_indices: tuple[int, ...] = (0, 1, 2, 3, 4)


def timm_settings(first_conv: str, classifier: str, **settings: Any) -> dict[str, Any]:
    """Return timm's settings of a network: the input, the preprocessing, the names of its first and last layer."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": first_conv,
        "classifier": classifier,
        "paper_name": "CNN Mixture-of-Depths",
        "paper_ids": "arXiv:2409.17016",
    } | settings


def timm_network(
    description: dict[str, Any], *, converted: bool = True
) -> Callable[[Callable[[], Dense]], Callable[..., Any]]:
    """Register the network that the decorated function describes, under the name of the function.

    timm knows the name as soon as the module of the function is imported.

    Args:
        description: The result of `timm_settings`.
        converted: Whether it is a MoD network. A MoD network takes `config` and the fields of `MoDConfig`.
    """

    def add(describe: Callable[[], Dense]) -> Callable[..., Any]:
        name = describe.__name__

        def network(pretrained: bool = False, **kwargs: Any) -> Any:
            if pretrained and not kwargs.get("pretrained_cfg"):  # a folder or repository has its own weights
                raise ValueError(f"no pretrained weights are published for {name}; use pretrained=False")
            dense = describe()
            out_indices = kwargs.pop("out_indices", dense.out_indices)
            config = _config(kwargs) if converted else None

            def make(**settings: Any) -> nn.Module:
                model = dense.make(**settings)
                return model if config is None else convert_(model, config)

            features = {"feature_cls": "getter", "out_indices": out_indices}
            settings = dense.settings | kwargs  # the user's arguments take precedence, as in timm
            return build_model_with_cfg(make, name, pretrained, feature_cfg=features, **settings)

        network.__name__ = network.__qualname__ = name
        network.__module__, network.__doc__ = describe.__module__, describe.__doc__
        # the name that timm expects
        cfgs: dict[str, Any] = vars(sys.modules[describe.__module__]).setdefault("default_cfgs", {})
        cfgs.update(generate_default_cfgs({name: description}))
        return register(takes_config=converted)(register_model(network))

    return add


def _config(kwargs: dict[str, Any]) -> MoDConfig | Mapping[str, Choice]:
    """Take the config and its fields out of the arguments. JSON values are accepted, as in a `config.json` of timm.

    A choice for each block is also accepted, as `convert_` takes it.
    """
    config = kwargs.pop("config", MoDConfig())
    changes = {field.name: kwargs.pop(field.name) for field in fields(MoDConfig) if field.name in kwargs}
    if isinstance(config, Mapping):
        if any(isinstance(choice, MoDConfig) or choice == SKIP for choice in config.values()):
            if changes:
                raise ValueError(f"{next(iter(changes))} cannot be combined with a choice for each block")
            return config
        config = MoDConfig.from_dict(config)
    if isinstance(changes.get("placement"), list):
        changes["placement"] = tuple(changes["placement"])
    return replace(config, **changes)

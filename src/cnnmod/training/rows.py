"""The three networks of a recipe: baseline, MoD network, control."""

from typing import Any, Literal

from torch import nn

from cnnmod.method.convert import control_
from cnnmod.networks.build import build, build_mod, factory_name
from cnnmod.networks.features import load_backbone_
from cnnmod.training.recipe import Recipe

Row = Literal["baseline", "mod", "control"]


def factory_of(recipe: Recipe, row: Row, num_classes: int) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of the factory that a row's network is built by."""
    grey = {"in_chans": recipe.in_channels} if recipe.in_channels != 3 else {}
    size = {"min_size": min(recipe.size), "max_size": max(recipe.size)} if recipe.task == "detection" else {}
    name = recipe.baseline if row == "baseline" else recipe.network
    return factory_name(name), size | recipe.network_args | {"num_classes": num_classes} | grey


def build_row(recipe: Recipe, row: Row, num_classes: int) -> nn.Module:
    """A network of the recipe, with fresh weights, but for a backbone that starts from a file's.

    Raises:
        OSError: That file cannot be read.
        ValueError: It is of another backbone; norms are frozen that were never trained; or the factory does not take
            the recipe's arguments.
    """
    name, arguments = factory_of(recipe, row, num_classes)
    if arguments.get("frozen_norms") and not recipe.backbone_weights:
        raise ValueError(
            "frozen_norms keeps the statistics of a trained backbone; name its file, as --set "
            "backbone_weights=runs/imagenet/{row}-seed0/best.safetensors, or --set network_args.frozen_norms=false"
        )
    try:
        model = build(name, **arguments) if row == "baseline" else build_mod(name, recipe.config, **arguments)
    except (OSError, ValueError):
        raise
    except Exception as error:  # whatever a constructor raises at a recipe's arguments
        if ":" in name:  # the user's own, whose traceback says more
            raise
        raise ValueError(f"{name} cannot be built with {arguments}: {type(error).__name__}: {error}") from error
    if row == "control":
        control_(model)
    if recipe.backbone_weights:
        load_backbone_(model, recipe.backbone_weights.replace("{row}", row))
    return model

"""The three networks of a recipe: baseline, MoD network, control."""

from typing import Any, Literal

from torch import nn

from cnnmod.method.convert import control_
from cnnmod.networks.registry import build, build_mod, factory_name
from cnnmod.training.recipe import Recipe

Row = Literal["baseline", "mod", "control"]


def factory_of(recipe: Recipe, row: Row, num_classes: int) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of the factory that a row's network is built by.

    Raises:
        ValueError: The recipe's arguments do not go with its task's options.
    """
    networks, images = recipe.networks, recipe.images
    gray = {"in_chans": images.in_channels} if images.in_channels != 3 else {}
    arguments = recipe.task.network_args(images, networks.network_args)
    name = networks.baseline if row == "baseline" else networks.network
    return factory_name(name), arguments | {"num_classes": num_classes} | gray


def build_row(recipe: Recipe, row: Row, num_classes: int) -> nn.Module:
    """A network of the recipe, with fresh weights, but for a backbone that starts from a file's.

    Raises:
        OSError: That file cannot be read.
        ValueError: It is of another backbone; norms are frozen that were never trained; or the factory does not take
            the recipe's arguments.
    """
    name, arguments = factory_of(recipe, row, num_classes)
    try:
        model = build(name, **arguments) if row == "baseline" else build_mod(name, recipe.networks.config, **arguments)
    except NotImplementedError as error:  # torchvision's, at a dilation that a block does not have
        raise ValueError(f"{name} cannot be built with {arguments}: {error}") from error
    if row == "control":
        control_(model)
    recipe.task.load_weights_(model, row)
    return model

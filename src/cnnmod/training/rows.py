"""The three networks of a recipe: baseline, MoD network, control."""

from typing import Any

from torch import nn

from cnnmod.method.convert import control_
from cnnmod.networks.registry import build, build_mod, factory_name
from cnnmod.records.roles import Role
from cnnmod.training.recipe import Recipe


def factory_of(recipe: Recipe, row: Role, num_classes: int) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of the factory of a row.

    Raises:
        ValueError: If the arguments and the task options of the recipe are incompatible.
    """
    networks, images = recipe.networks, recipe.images
    gray = {"in_chans": images.in_channels} if images.in_channels != 3 else {}
    arguments = recipe.task.network_args(images, networks.network_args)
    name = networks.baseline if row == "baseline" else networks.network
    return factory_name(name), arguments | {"num_classes": num_classes} | gray


def build_row(recipe: Recipe, row: Role, num_classes: int) -> nn.Module:
    """Build a network of the recipe with initial weights, or with backbone weights from a file.

    Raises:
        OSError: If the file with the backbone weights cannot be read.
        ValueError: If the file belongs to another backbone, norms are frozen without backbone weights, or the factory
            does not accept the arguments of the recipe.
    """
    name, arguments = factory_of(recipe, row, num_classes)
    try:
        model = build(name, **arguments) if row == "baseline" else build_mod(name, recipe.networks.config, **arguments)
    except NotImplementedError as error:  # torchvision raises it for an unsupported dilation
        raise ValueError(f"{name} cannot be built with {arguments}: {error}") from error
    if row == "control":
        control_(model)
    recipe.task.load_weights_(model, row)
    return model

"""The networks of a recipe: baseline, MoD network, control, and the teacher."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnnmod.method.checkpoint import load_mod_blocks_
from cnnmod.method.convert import control_, convert_
from cnnmod.method.structure import read_structure
from cnnmod.method.trace import example_for, meta_forward
from cnnmod.networks import load
from cnnmod.networks.registry import accepts, build, factory_name, takes_config
from cnnmod.networks.weights import load_weights_
from cnnmod.records.roles import Role
from cnnmod.training.recipe import Recipe

# Arguments of timm, torchvision and others that only select initial weights, which a checkpoint replaces.
_WEIGHT_ARGUMENTS = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("weights", "weights_backbone", "progress"),
}


def factory_of(recipe: Recipe, row: Role, num_classes: int) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of the factory of a row.

    A factory of the user gets `num_classes` and `in_chans` only if it takes them.

    Raises:
        ValueError: If the arguments and the task options of the recipe are incompatible, or the name is unknown.
    """
    networks, images = recipe.networks, recipe.images
    arguments = recipe.task.network_args(images, networks.network_args)
    name = factory_name(networks.baseline if row == "baseline" else networks.network)
    added = {"num_classes": num_classes} | ({"in_chans": images.in_channels} if images.in_channels != 3 else {})
    if _is_own(name):
        added = {argument: value for argument, value in added.items() if accepts(name, argument)}
    return name, arguments | added


def without_weights(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a factory without those that select initial weights, for a checkpoint.

    The arguments of a factory of the user are not changed, since their meaning is unknown.

    Examples:
        >>> without_weights("timm/resnet18", {"pretrained": True, "num_classes": 7})
        {'num_classes': 7}
    """
    if _is_own(name):
        return arguments
    return {
        argument: without_weights(name, value) if isinstance(value, dict) else value
        for argument, value in arguments.items()
        if argument not in _WEIGHT_ARGUMENTS
    }


def size_of(recipe: Recipe, name: str) -> tuple[int, int] | None:
    """Return the size of the recipe's images for a classifier of the user, and `None` for all other networks.

    A network of the user may run at one size only. All others run at their default size.
    """
    return recipe.images.size if _is_own(name) and recipe.task.one_class_each else None


def build_row(recipe: Recipe, row: Role, num_classes: int, *, with_weights: bool = True) -> nn.Module:
    """Build a network of the recipe with its initial weights, some of which may be from a file.

    Args:
        recipe: The recipe.
        row: The network of the recipe.
        num_classes: The number of classes of the data set.
        with_weights: Whether to load the weights that the recipe names. They are not needed if the weights of a
            checkpoint are loaded afterwards.

    Raises:
        OSError: If a file with weights cannot be read.
        ValueError: If a file belongs to another network or backbone, norms are frozen without backbone weights, the
            factory does not accept the arguments of the recipe, or its network has another number of classes.
    """
    name, arguments = factory_of(recipe, row, num_classes)
    networks = recipe.networks
    config, weights = networks.config if networks.plan is None else networks.plan, networks.weights
    makes_mod = row != "baseline" and takes_config(name)
    if makes_mod and weights is not None:
        raise ValueError(f"weights are of a dense network, but {name} is a MoD network; name a dense network")
    arguments = arguments if with_weights else without_weights(name, arguments)
    try:
        model = build(name, **arguments, **({"config": config} if makes_mod else {}))
    except NotImplementedError as error:  # torchvision raises it for an unsupported dilation
        raise ValueError(f"{name} cannot be built with {arguments}: {error}") from error
    size = size_of(recipe, name)
    example = None if size is None else example_for(model, size)
    if example is not None and "num_classes" not in arguments:
        _check_classes(name, model, example, num_classes)
    if weights is not None and with_weights:
        load_weights_(model, weights, new_head=True)
    if row != "baseline" and not makes_mod:
        convert_(model, config, example=example)
    if row == "control":
        control_(model)
    elif row == "mod" and with_weights and networks.mod_weights is not None:
        load_mod_blocks_(model, networks.mod_weights)
    if with_weights:
        recipe.task.load_weights_(model, row)
    return model


def build_teacher(recipe: Recipe, num_classes: int) -> nn.Module | None:
    """Build the teacher of the recipe's task, or return `None` if it has none.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If the file is not a checkpoint of this number of classes, or the teacher is the dense network of
            the recipe and has no trained weights for these classes.
    """
    networks, teacher = recipe.networks, recipe.task.teacher_name()
    if teacher is None:
        return None
    if teacher == "dense":
        return _dense_teacher(recipe, num_classes)
    if Path(teacher).is_file():
        named = networks.baseline if read_structure(teacher).factory == networks.baseline else None
        return load(teacher, factory=named, size=size_of(recipe, networks.baseline))
    return build(teacher, pretrained=True, num_classes=num_classes)


def _dense_teacher(recipe: Recipe, num_classes: int) -> nn.Module:
    networks = recipe.networks
    if networks.weights is None:
        raise ValueError(
            "the teacher 'dense' needs the trained weights of the dense network; name both, such as "
            "--network package.module:factory --weights weights.pth, or train without a teacher: --set teacher=None"
        )
    name, arguments = factory_of(recipe, "baseline", num_classes)
    model = build(name, **without_weights(name, arguments))
    head = load_weights_(model, networks.weights, new_head=True)
    if head is not None:
        raise ValueError(
            f"{networks.weights} has {head.file_classes} classes, not {num_classes}, so the dense network cannot be "
            "the teacher; use teacher=None"
        )
    return model


def _is_own(name: str) -> bool:
    return ":" in name


def _check_classes(name: str, model: nn.Module, example: Tensor, num_classes: int) -> None:
    outputs = meta_forward(model, example)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise ValueError(f"{name} returns {_described(outputs)}, not logits (N, classes)")
    if outputs.shape[1] != num_classes:
        raise ValueError(
            f"{name} has {outputs.shape[1]} classes and takes no argument num_classes, but the data set has "
            f"{num_classes} classes"
        )


def _described(outputs: Any) -> str:
    return f"{tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"

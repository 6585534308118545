"""open_trained: a trained network with its recipe, from a run folder or from a file of the user."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cnnmod.networks import load
from cnnmod.networks.from_file import weights_in
from cnnmod.networks.own import build_with_weights
from cnnmod.training.folder import classes_of, recipe_of
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import recipe as named_recipe


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        model: The network.
        recipe: The recipe that says how images are prepared.
        classes: The names of the classes, or `None` if they are not known.
        path: The file.
    """

    model: nn.Module
    recipe: Recipe
    classes: list[str] | None
    path: Path


def open_trained(
    checkpoint: Path | None = None,
    *,
    network: str | None = None,
    weights: Path | None = None,
    recipe: str | None = None,
    changes: Sequence[str] = (),
) -> Trained:
    """Open a checkpoint, or a network with weights.

    Args:
        checkpoint: A checkpoint of cnnmod, or a folder of `HubNetwork`. In a run folder, its recipe is read from there.
        network: The factory of the checkpoint, or the name of the network for `weights`.
        weights: A file with the weights of the network.
        recipe: The name of a recipe that says how images are prepared. Only for files that are in no run folder.
        changes: Changes of this recipe.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If not exactly one of `checkpoint` and `weights` is given, the recipe is missing or not needed, or
            as `load` and `load_weights_`.
    """
    if (checkpoint is None) == (weights is None) or (weights is not None and network is None):
        raise ValueError("name a checkpoint of cnnmod, or a network and its weights with --network and --weights")
    path = checkpoint or weights
    assert path is not None
    if not path.exists():
        raise FileNotFoundError(f"the file {path} does not exist")
    if checkpoint is not None:
        path = weights_in(path)
    in_run_folder = checkpoint is not None and (path.parent / "run.json").exists()
    if in_run_folder == (recipe is not None):
        raise ValueError(
            f"{path} is in a run folder, whose recipe is used; --recipe is not accepted"
            if in_run_folder
            else f"{path} is in no run folder of cnnmod train; name the recipe that says how images are prepared, such "
            "as --recipe finetune --set image_size=64"
        )
    if changes and recipe is None:
        raise ValueError("--set changes the recipe that --recipe names; it is not accepted without --recipe")
    used = recipe_of(path) if recipe is None else named_recipe(recipe, changes, network=network)
    size = used.images.size if network is not None and ":" in network and used.task.one_class_each else None
    if weights is not None:
        gray = {"in_chans": used.images.in_channels} if used.images.in_channels != 3 and ":" not in str(network) else {}
        return Trained(build_with_weights(str(network), weights, gray), used, None, path)
    classes = classes_of(path) if in_run_folder else None
    return Trained(load(path, factory=network, size=size), used, classes, path)

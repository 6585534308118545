"""checked_start: check the networks of a new run before it writes anything, and adapt the teacher to the data."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from cnnmod.networks.weights import other_head, read_weights
from cnnmod.records.roles import Role
from cnnmod.training.processes import all_processes
from cnnmod.training.recipe import Recipe
from cnnmod.training.rows import build_row
from cnnmod.training.tasks import Classification

logger = logging.getLogger("cnnmod")


def checked_start(recipe: Recipe, rows: Sequence[Role], num_classes: int) -> Recipe:
    """Check the networks of a new run. An error in any of them is raised before the first is trained.

    Args:
        recipe: The recipe.
        rows: The networks to train.
        num_classes: The number of classes of the data set.

    Returns:
        The recipe to train. If its weights are for other classes, every row gets a new head, and the dense network
        cannot be the teacher: the recipe then has no teacher. Both are logged (logger `cnnmod`).

    Raises:
        OSError: As `build_row`.
        ValueError: As `build_row`.
    """
    weights = recipe.networks.weights
    if weights is not None:
        dense = build_row(recipe, "baseline", num_classes, with_weights=False)
        head = other_head(dense, read_weights(weights))
        if head is not None:
            layer = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in head.names))
            text = f"{weights} has {head.file_classes} classes, the data set has {num_classes}: {layer} is a new layer"
            if isinstance(recipe.task, Classification) and recipe.task.teacher == "dense":
                recipe = replace(recipe, task=replace(recipe.task, teacher=None))
                text += ", and the dense network is not used as the teacher"
            if all_processes().is_main_process:
                logger.warning(text)
    for row in rows if len(rows) > 1 else ():  # a single run builds its network before it writes anything
        build_row(recipe, row, num_classes)
    return recipe

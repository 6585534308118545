"""check_named: a file must not decide which code is imported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnnmod.training.recipe import Recipe


def check_named(recipe: Recipe, network: str | None, source: Path) -> None:
    """Check that the user has named the factories of a recipe that was read from a file.

    Factories of timm, torchvision and cnnmod need not be named. Other factories of a module are accepted if one of them
    is named.

    Args:
        recipe: The recipe.
        network: The factory that the user named, such as `"package.module:factory"`.
        source: The file, for the error.

    Raises:
        ValueError: If the recipe names another module.

    Examples:
        >>> from cnnmod.training.recipes import recipe
        >>> check_named(recipe("digits", network="my_net:make"), None, Path("runs/digits"))
        Traceback (most recent call last):
        ...
        ValueError: runs/digits names 'my_net:make', and a file may not import code; name it: --network my_net:make
    """
    networks, teacher = recipe.networks, recipe.task.teacher_name()
    names = [*_strings([networks.baseline, networks.network, networks.network_args])]
    if teacher is not None and not Path(teacher).exists():
        names.append(teacher)
    module = None if network is None else network.partition(":")[0]
    for name in names:
        if ":" in name and name.partition(":")[0] != module:
            raise ValueError(f"{source} names {name!r}, and a file may not import code; name it: --network {name}")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _strings(inner)

"""Which blocks of a network a config or a choice for each block chooses, and why it does not choose the others."""

import os
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from cnnmod.method.calls import Block, Refused
from cnnmod.method.choices import Choice, Choices, check_choice, check_names, read_plan
from cnnmod.method.config import MoDConfig

FilterFn = Callable[[nn.Module, str], bool]
ByName = Mapping[str, Choice] | Callable[[str], Choice]


def read_choices(config: Any, filter_fn: FilterFn | None) -> MoDConfig | ByName:
    """Return the config or the choices of `convert_`, of which a file is read."""
    if isinstance(config, MoDConfig):
        return config
    if isinstance(config, (str, os.PathLike)):
        config = read_plan(config)
    if not (isinstance(config, Mapping) or callable(config)):
        raise ValueError(
            "config must be a MoDConfig, a mapping or a function from names of blocks to a MoDConfig, 'skip' or None, "
            f"or the path of a plan, not {type(config).__name__}"
        )
    if filter_fn is not None:
        raise ValueError("filter_fn cannot be combined with a choice for each block; choose None for a block instead")
    if isinstance(config, Mapping):
        for name, choice in config.items():
            check_choice(name, choice)
    return cast(ByName, config)  # a function's answers are checked later


def choose(
    network: str, modules: list[list[Block]], config: MoDConfig | ByName, filter_fn: FilterFn | None
) -> tuple[dict[str, Choice], dict[str, Refused]]:
    """Return the choice for each block that is replaced, and all other blocks with the reason.

    Raises:
        ValueError: If no block is chosen, or a block that is named cannot be replaced.
    """
    if not isinstance(config, MoDConfig):
        return _choose_by_name(network, modules, config)
    refused = _not_chosen(modules, config, filter_fn)
    names = [block.name for module in modules for block in module if block.name not in refused]
    wanted: dict[str, Choice] = dict.fromkeys(names, config)
    return wanted, refused


def _choose_by_name(
    network: str, modules: list[list[Block]], choices: ByName
) -> tuple[dict[str, Choice], dict[str, Refused]]:
    blocks = {block.name: position == 0 for module in modules for position, block in enumerate(module)}
    names = [name for name, is_first in blocks.items() if not is_first]
    if isinstance(choices, Choices):
        channels = {block.name: block.call.out_channels for module in modules for block in module[1:]}
        choices.check_network(network, channels)
    if isinstance(choices, Mapping):
        check_names(network, choices, blocks)
        wanted: dict[str, Choice] = {name: choices.get(name) for name in names}
    else:
        wanted = {name: choices(name) for name in names}
        for name, choice in wanted.items():
            check_choice(name, choice)
    if all(choice is None for choice in wanted.values()):
        raise ValueError(f"the choices keep all {len(names)} blocks of {network}, so there is nothing to convert")
    reasons = {name: "first of its module" if is_first else "kept" for name, is_first in blocks.items()}
    refused = {name: Refused(reason) for name, reason in reasons.items() if wanted.get(name) is None}
    return wanted, refused


def _not_chosen(modules: list[list[Block]], config: MoDConfig, filter_fn: FilterFn | None) -> dict[str, Refused]:
    """Return the blocks that `placement` and `filter_fn` do not choose, each with the reason."""
    placement = config.placement
    eligible = [block for module in modules for block in module[1:]]
    names = [block.name for block in eligible]
    if isinstance(placement, tuple) and (missing := [name for name in placement if name not in names]):
        raise ValueError(f"placement names {missing[0]!r}, but the blocks that can be MoD blocks are {names}")
    refused = {module[0].name: Refused("first of its module") for module in modules}
    for number, module in enumerate(modules):
        for position, block in enumerate(module[1:], 1):
            if not _is_placed(config, number, position, block.name):
                refused[block.name] = Refused("placement")
    chosen = [block for block in eligible if block.name not in refused]
    if not chosen:
        raise ValueError(f"placement {placement!r} chooses none of the {len(eligible)} blocks that can be MoD blocks")
    if filter_fn is not None:
        rejected = [block for block in chosen if not filter_fn(block.layer, block.name)]
        if len(rejected) == len(chosen):
            types = sorted({type(block.layer).__name__ for block in chosen})
            raise ValueError(f"filter_fn accepts none of the blocks {[block.name for block in chosen]} of type {types}")
        refused |= {block.name: Refused("filter_fn") for block in rejected}
    return refused


def _is_placed(config: MoDConfig, module: int, position: int, name: str) -> bool:
    if isinstance(config.placement, tuple):
        return name in config.placement
    if callable(config.placement):
        return config.placement(module, position)
    return config.placement == "all" or position % 2 == 1

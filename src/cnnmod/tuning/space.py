"""Space: the choices that each block of a network has."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from cnnmod.method.choices import SKIP, Choice, Choices, choice_from_json, choice_to_json
from cnnmod.method.config import MoDConfig
from cnnmod.method.plan import plan
from cnnmod.method.planned import PlannedBlock
from cnnmod.records.parse import parse
from cnnmod.tuning.configs import tuning_configs

KEEP = "keep"
Labels: TypeAlias = Mapping[str, str]  # the label of the choice of each block, by the block's name


@dataclass(frozen=True)
class SpaceBlock:
    """A block and its choices.

    Attributes:
        name: The qualified name.
        channels: The number of its channels.
        group: The number of its group. The blocks of a group have the same shapes and choices, so their choices take
            equally long.
        choices: The choices by label: `"keep"`, the MoD blocks (such as `"c=16"` and `"narrow c=4"`), and `"skip"`.
    """

    name: str
    channels: int
    group: int
    choices: Mapping[str, Choice]


@dataclass(frozen=True)
class Space:
    """The blocks of a network that can be replaced, with their choices.

    Attributes:
        network: The name of the network's class.
        blocks: The blocks in the order of the network.
    """

    network: str
    blocks: tuple[SpaceBlock, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON values. `from_dict` reads them."""
        blocks = {
            block.name: {
                "channels": block.channels,
                "group": block.group,
                "choices": {label: choice_to_json(choice) for label, choice in block.choices.items()},
            }
            for block in self.blocks
        }
        return {"network": self.network, "blocks": blocks}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Space":
        """Return the space that `to_dict` wrote.

        Raises:
            ValueError: If a value is not valid. The message names the block.
        """
        stored: _StoredSpace = parse(_StoredSpace, dict(values), "space")
        blocks = [
            SpaceBlock(
                name,
                block.channels,
                block.group,
                {label: choice_from_json(name, value) for label, value in block.choices.items()},
            )
            for name, block in stored.blocks.items()
        ]
        return cls(stored.network, tuple(blocks))

    def choices(self, labels: Labels) -> Choices:
        """Return the choices with these labels. Blocks without a label are kept."""
        chosen: dict[str, Choice] = {block.name: block.choices[labels.get(block.name, KEEP)] for block in self.blocks}
        return Choices(chosen, {block.name: block.channels for block in self.blocks})

    def groups(self) -> list[list[SpaceBlock]]:
        """Return the blocks of each group."""
        by_group = sorted(self.blocks, key=lambda block: block.group)
        return [list(blocks) for _, blocks in itertools.groupby(by_group, lambda block: block.group)]

    def random(self, count: int, seed: int) -> list[dict[str, str]]:
        """Return random combinations: the label of each block, for `count` networks."""
        generator = torch.Generator().manual_seed(seed)

        def draw(block: SpaceBlock) -> str:
            labels = list(block.choices)
            return labels[int(torch.randint(len(labels), (), generator=generator))]

        return [{block.name: draw(block) for block in self.blocks} for _ in range(count)]


@dataclass(frozen=True)
class _StoredBlock:
    channels: int
    group: int
    choices: dict[str, Any]


@dataclass(frozen=True)
class _StoredSpace:
    network: str
    blocks: dict[str, _StoredBlock]


def find_space(model: nn.Module, configs: Sequence[MoDConfig] | None, example: Tensor) -> Space:
    """Return the choices of each block of a network. The network is not changed.

    Args:
        model: A dense network.
        configs: The configs of the MoD blocks to try. Configs that make the same MoD block of a block are one choice.
            `None` tries those of `tuning_configs()` whose c is not larger than the widest block.
        example: Images (N, C, H, W).

    Raises:
        ValueError: If there is no config, or no block can be a MoD block.

    Examples:
        >>> import timm
        >>> space = find_space(timm.create_model("resnet18"), [MoDConfig(c=16)], torch.rand(1, 3, 64, 64))
        >>> [(block.name, list(block.choices)) for block in space.blocks][0]
        ('layer1.1', ['keep', 'c=16', 'skip'])
    """
    if configs is None:
        widest = max((block.channels for block in plan(model, example=example).blocks), default=1)
        configs = [config for config in tuning_configs() if (config.c or 1) <= widest]
    if not configs:
        raise ValueError("configs must have at least one MoDConfig")
    plans = [plan(model, lambda name, config=config: config, example=example) for config in configs]
    if not any(made.mod_blocks for made in plans):
        reason = next(block.reason for block in plans[0].blocks if block.position)
        raise ValueError(f"{type(model).__name__} has no block that can be a MoD block: {reason}")
    groups: dict[object, int] = {}
    blocks: list[SpaceBlock] = []
    widest = max(block.channels for block in plans[0].blocks)
    for lines in zip(*(made.blocks for made in plans), strict=True):
        block = lines[0]
        if block.position:
            choices: dict[str, Choice] = {KEEP: None, **_mod_choices(lines, configs, widest), SKIP: SKIP}
            group = groups.setdefault((_shapes(model, block), *choices), len(groups))
            blocks.append(SpaceBlock(block.name, block.channels, group, choices))
    return Space(type(model).__name__, tuple(blocks))


def _mod_choices(lines: Sequence[PlannedBlock], configs: Sequence[MoDConfig], widest: int) -> dict[str, Choice]:
    """Return the different MoD blocks of a block, by label.

    Args:
        lines: The block's line in the plan of each config.
        configs: The configs.
        widest: The number of channels of the widest block, the largest c that is accepted. The usual c may be larger.
    """
    choices: dict[str, Choice] = {}
    present: set[object] = set()
    for line, config in zip(lines, configs, strict=True):
        key = line.k, dataclasses.replace(config, c=None)
        if line.k is not None and key not in present:
            present.add(key)
            config = dataclasses.replace(config, c=None if line.c is None else min(line.c, widest))
            choices[_label(config)] = config
    return choices


def _label(config: MoDConfig) -> str:
    if config.c is not None and config == MoDConfig.narrow(config.c):
        return f"narrow c={config.c}"
    names = [field.name for field in fields(config) if field.name not in ("c", "placement", "identity_start")]
    usual = MoDConfig()
    changed = [f"{name}={getattr(config, name)}" for name in names if getattr(config, name) != getattr(usual, name)]
    return " ".join([f"c={config.c}", *changed])


def _shapes(model: nn.Module, block: PlannedBlock) -> object:
    layer = model.get_submodule(block.name)
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in layer.named_parameters())
    return block.module, block.kind, block.channels, shapes

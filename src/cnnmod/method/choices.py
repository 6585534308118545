"""A choice for each block of a network: a MoD block with a config of its own, the identity, or the standard block."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from cnnmod.method.config import MoDConfig

Choice: TypeAlias = MoDConfig | Literal["skip"] | None
Choices: TypeAlias = MoDConfig | Mapping[str, MoDConfig | Literal["skip"]] | Callable[[str], Choice]


class Skip(nn.Identity):
    """The identity in place of a block. It returns its input and ignores all other arguments.

    Args:
        config: The config of the MoD block that it replaces in a control, or the config that the block would have.
    """

    def __init__(self, config: MoDConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the input tensor (N, C, H, W) itself."""
        return input


def choose(choices: Mapping[str, Any] | Callable[[str], Any], names: Sequence[str]) -> dict[str, Choice]:
    """Return the choice for each block.

    Args:
        choices: A dictionary with some of the names, or a function from a name to its choice.
        names: The names of the blocks that can be MoD blocks.

    Raises:
        ValueError: If a name is unknown, a choice is not accepted, or no block is chosen.
    """
    if isinstance(choices, Mapping):
        for name in choices:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=3)
                hint = f"did you mean {', '.join(near)}?" if near else f"the blocks are {', '.join(names)}"
                raise ValueError(f"{name!r} is not a block that can be a MoD block; {hint}")
        chosen = {name: choices.get(name) for name in names}
    else:
        chosen = {name: choices(name) for name in names}
    for name, choice in chosen.items():
        if not (choice is None or choice == "skip" or isinstance(choice, MoDConfig)):
            raise ValueError(f"the choice for {name} must be a MoDConfig, 'skip' or None, not {choice!r}")
    if not any(chosen.values()):
        raise ValueError(f"no choice for any of the {len(names)} blocks that can be MoD blocks")
    return chosen

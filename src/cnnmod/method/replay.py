"""Record what MoD blocks select for a sequence of images, and run the network again with other selections."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.convert import mod_blocks

_Select: TypeAlias = Callable[[MoDBlock, Tensor], tuple[Tensor | None, Tensor]]


@dataclass(frozen=True)
class Selections:
    """The selections of one MoD block for N images, in the order of its calls.

    Attributes:
        channels: C.
        order: The `order` of the block's config.
        index: The selected channels of each batch, (n, K).
        score: Their scores, (n, K), without the gains of `identity_start`, which belong to positions. Empty if nothing
            is scaled.
    """

    channels: int
    order: str
    index: list[Tensor] = field(default_factory=list)
    score: list[Tensor] = field(default_factory=list)

    def exchanged(self) -> "Selections":
        """Return selections in which each image has the selection of another image, N // 2 images away."""
        if not self.index:
            return self
        index_NK = torch.cat(self.index)
        shift = len(index_NK) // 2
        return replace(
            self, index=[index_NK.roll(shift, 0)], score=[torch.cat(self.score).roll(shift, 0)] if self.score else []
        )

    def fixed(self) -> "Selections":
        """Return the same selection for all images: the channels selected most often, with their mean scores.

        With `order="score"`, the channels are sorted by their mean position.
        """
        if not self.index:
            return self
        index_NK = torch.cat(self.index)
        images, k = index_NK.shape
        count_C = torch.bincount(index_NK.flatten(), minlength=self.channels)
        position_NK = torch.arange(k, device=index_NK.device).expand_as(index_NK)
        position_sum_C = torch.bincount(index_NK.flatten(), position_NK.flatten(), minlength=self.channels)
        index_K = count_C.sort(descending=True, stable=True).indices[:k]
        position_K = position_sum_C[index_K] / count_C[index_K]
        index_K = index_K.sort().values if self.order == "index" else index_K[position_K.argsort(stable=True)]
        if not self.score:
            return replace(self, index=[index_K.expand(images, -1)])
        score_NK = torch.cat(self.score)
        sum_C = score_NK.new_zeros(self.channels).index_add_(0, index_NK.flatten(), score_NK.flatten())
        score_K = (sum_C / count_C)[index_K]
        return replace(self, index=[index_K.expand(images, -1)], score=[score_K.expand(images, -1)])


@contextmanager
def recorded_for_replay(model: nn.Module) -> Iterator[dict[str, Selections]]:
    """Record the selections and scores of each MoD block by name inside the context.

    `recorded_selection` records the channels only, and supports lowered networks.

    Raises:
        ValueError: If the network is lowered.
    """
    selections = {name: Selections(block.channels, block.config.order) for name, block in mod_blocks(model).items()}

    def record(block_selections: Selections, block: MoDBlock, x_NCHW: Tensor) -> tuple[Tensor | None, Tensor]:
        score_NK, index_NK = type(block)._select(block, x_NCHW)
        block_selections.index.append(index_NK)
        if score_NK is not None:
            block_selections.score.append(score_NK)
        return score_NK, index_NK

    with _selecting(model, {name: partial(record, recording) for name, recording in selections.items()}):
        yield selections


@contextmanager
def replayed_selections(model: nn.Module, selections: dict[str, Selections]) -> Iterator[None]:
    """Make the MoD blocks use recorded selections inside the context.

    Raises:
        ValueError: If the network is lowered, or the number of images is not that of the recording.
    """

    def replay(
        rows: Iterator[tuple[Tensor | None, Tensor]], _: MoDBlock, x_NCHW: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        selections = list(itertools.islice(rows, len(x_NCHW)))
        if len(selections) < len(x_NCHW):
            raise ValueError("there are more images than recorded selections")
        scores = [score_K for score_K, _ in selections if score_K is not None]
        return torch.stack(scores) if scores else None, torch.stack([index_K for _, index_K in selections])

    rows = {name: _rows(recording) for name, recording in selections.items()}
    with _selecting(model, {name: partial(replay, iterator) for name, iterator in rows.items()}):
        yield
    if any(next(iterator, None) is not None for iterator in rows.values()):
        raise ValueError("there are fewer images than recorded selections")


def _rows(selections: Selections) -> Iterator[tuple[Tensor | None, Tensor]]:
    if not selections.index:  # the network did not call the block
        return iter(())
    index_NK = torch.cat(selections.index)
    score_NK = torch.cat(selections.score) if selections.score else [None] * len(index_NK)
    return zip(score_NK, index_NK, strict=True)


@contextmanager
def _selecting(model: nn.Module, select: dict[str, _Select]) -> Iterator[None]:
    """Replace the method `_select` of the MoD blocks inside the context.

    Raises:
        ValueError: If the network is lowered, because forms do not always call this method.
    """
    blocks = mod_blocks(model)
    if any(type(block) is not MoDBlock for block in blocks.values()):
        raise ValueError("selections are recorded and replayed in the training form; use the network before lower")
    attributes = [vars(block) for block in blocks.values()]
    previous = [own.get("_select") for own in attributes]  # set if contexts are nested
    for own, (name, block) in zip(attributes, blocks.items(), strict=True):
        own["_select"] = partial(select[name], block)
    try:
        yield
    finally:
        for own, before in zip(attributes, previous, strict=True):
            del own["_select"]
            if before is not None:
                own["_select"] = before

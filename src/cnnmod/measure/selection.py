"""Inspect which channels MoD blocks select. A collapsed selector selects the same channels for all images."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.convert import mod_blocks
from cnnmod.method.modes import evaluation_mode
from cnnmod.method.record import recorded_selection
from cnnmod.training.images import Images


@dataclass(frozen=True)
class Selection:
    """The channels that one MoD block selected for many images (paper, section 5.1).

    Attributes:
        block: The name of the block.
        channels: C.
        k: The number of channels that are selected for an image.
        images: The number of images of each class.
        selected: `selected[class][channel]` is the number of images of the class for which the channel was selected.
        most_selected: The number of images for which exactly the k most selected channels were selected.
    """

    block: str
    channels: int
    k: int
    images: list[int]
    selected: list[list[int]]
    most_selected: int

    @property
    def shares(self) -> Tensor:
        """(classes, C): the share of the images of a class for which a channel was selected."""
        images = torch.tensor(self.images).clamp(min=1)
        return torch.tensor(self.selected) / images[:, None]

    @property
    def entropy(self) -> float:
        """The entropy of the selected channels, from 0 (always the same channels) to 1 (all channels equally often)."""
        if self.k == self.channels:
            return 0.0
        counts = torch.tensor(self.selected).sum(0).double()
        share = counts / counts.sum()
        bits = -(share * share.clamp(min=1e-12).log2()).sum().item()
        always = torch.tensor(self.k).log2().item()
        return max(0.0, (bits - always) / (torch.tensor(self.channels).log2().item() - always))

    @property
    def most_selected_share(self) -> float:
        """The share of images that select exactly the k most selected channels."""
        return self.most_selected / sum(self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the derived values as JSON values."""
        fields = ("block", "channels", "k", "entropy", "most_selected_share", "images", "selected")
        return {name: getattr(self, name) for name in fields}


def inspect_selection(
    model: nn.Module,
    images: Images,
    num_classes: int,
    *,
    batch_size: int = 256,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Selection]:
    """Run a network on images and count the channels that its MoD blocks select.

    Args:
        model: A network with MoD blocks. It runs in evaluation mode. Its mode is restored afterwards.
        images: The images to run the network on.
        num_classes: The number of classes of the images.
        batch_size: The number of images in a batch.
        precision: A function that creates an autocast context.
        progress: Called with the number of batches done and the number of batches.

    Raises:
        ValueError: If the network has no MoD blocks.
    """
    blocks = mod_blocks(model)
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no MoD blocks, so it selects no channels")
    device = next(model.parameters()).device
    order = torch.arange(len(images)).split(batch_size)
    labels: list[Tensor] = []
    with evaluation_mode(model), torch.inference_mode(), recorded_selection(model) as selected:
        for done, batch in enumerate(images.batches(order), 1):
            with precision():
                model(batch.images.to(device))
            labels.append(batch.labels)
            progress(done, len(order))
    return [
        _count(name, block, torch.cat(selected[name]), torch.cat(labels), num_classes) for name, block in blocks.items()
    ]


def _count(name: str, block: MoDBlock, index_NK: Tensor, label_N: Tensor, num_classes: int) -> Selection:
    chosen_NC = torch.zeros(len(index_NK), block.channels, dtype=torch.long).scatter_(1, index_NK, 1)
    selected = torch.zeros(num_classes, block.channels, dtype=torch.long).index_add_(0, label_N, chosen_NC)
    most_K = selected.sum(0).topk(block.k).indices
    return Selection(
        block=name,
        channels=block.channels,
        k=block.k,
        images=torch.bincount(label_N, minlength=num_classes).tolist(),
        selected=selected.tolist(),
        most_selected=int(chosen_NC[:, most_K].all(1).sum()),
    )

"""Which channels MoD blocks select: does the selection follow the image, or has it collapsed?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.convert import mod_blocks
from cnnmod.method.record import recorded_selection
from cnnmod.training.images import Images


@dataclass(frozen=True)
class Selection:
    """What one MoD block selected over many images (paper, section 5.1).

    Attributes:
        block: Its name.
        channels: C.
        k: How many are selected for an image.
        images: How many images of each class were seen.
        selected: [class][channel]: for how many images of the class the channel was selected.
        most_selected: For how many images exactly the k most selected channels were selected.
    """

    block: str
    channels: int
    k: int
    images: list[int]
    selected: list[list[int]]
    most_selected: int

    @property
    def shares(self) -> Tensor:
        """(classes, C): the share of a class's images for which a channel was selected."""
        images = torch.tensor(self.images).clamp(min=1)
        return torch.tensor(self.selected) / images[:, None]

    @property
    def entropy(self) -> float:
        """Of the selected channels, from 0 (always the same k) to 1 (all alike often)."""
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
        """The fields and what follows from them, as JSON values."""
        fields = ("block", "channels", "k", "entropy", "most_selected_share", "images", "selected")
        return {name: getattr(self, name) for name in fields}


def inspect_selection(
    model: nn.Module,
    images: Images,
    num_classes: int,
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Selection]:
    """Run a network over images and count what its MoD blocks select.

    Args:
        model: With MoD blocks; it runs in evaluation mode, and its mode is then what it was.
        images: To run it on.
        num_classes: Of the images.
        batch_size: Images at a time.
        progress: Called with the number of batches done, and how many there are.

    Raises:
        ValueError: The network has no MoD block.
    """
    blocks = mod_blocks(model)
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no MoD block that could select anything")
    device = next(model.parameters()).device
    order = torch.arange(len(images)).split(batch_size)
    labels: list[Tensor] = []
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), recorded_selection(model) as found:
            for done, batch in enumerate(images.batches(order), 1):
                model(batch.images.to(device))
                labels.append(batch.labels)
                progress(done, len(order))
    finally:
        model.train(training)
    return [
        _count(name, block, torch.cat(found[name]), torch.cat(labels), num_classes) for name, block in blocks.items()
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

"""A small ResNet that Torch-Pruning has made narrower (https://github.com/VainF/Torch-Pruning, DepGraph).

A rival of MoD in the price list. Torch-Pruning is needed by this file only: `pip install torch-pruning`. Name the
network in a recipe as `pruned:pruned`, with the folder benchmarks on the path.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch_pruning  # pyright: ignore[reportMissingImports]  not a dependency of cnnmod
from small_resnet import small_resnet
from torch import nn

from cnnmod.method.checkpoint import load_

SIZE = 32


def pruned(
    ratio: float,
    channels: Sequence[int] = (16, 32, 64),
    layers: Sequence[int] = (2, 2, 2),
    trained: str | None = None,
    num_classes: int = 100,
    bottleneck: bool = False,
    round_to: int | None = None,
) -> nn.Module:
    """Return a small ResNet without the channels of least magnitude.

    Every group of dependent layers loses the same share of its channels, as is Torch-Pruning's default. The widths do
    therefore not depend on the weights.

    Args:
        ratio: The share of the channels to remove. With 0, the network is not changed.
        channels: The width of each module before pruning.
        layers: The number of blocks of each module.
        trained: The file with the trained weights of the network before pruning. `None` prunes initial weights, which
            is enough to measure times.
        num_classes: The number of classes.
        bottleneck: As for `small_resnet`.
        round_to: The remaining numbers of channels are multiples of this number.

    Raises:
        FileNotFoundError: The file does not exist: the network before pruning is trained first.
        ValueError: The file belongs to another network.
    """
    model = small_resnet(channels, layers, num_classes=num_classes, bottleneck=bottleneck)
    if trained is not None:
        if not Path(trained).exists():
            raise FileNotFoundError(f"{trained} does not exist; train this network before its pruned ones")
        load_(model, trained)
    if not ratio:
        return model
    example = torch.rand(2, 3, SIZE, SIZE)
    torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=round_to,
        ignored_layers=[layer for layer in model.modules() if isinstance(layer, nn.Linear)],
    ).step()
    return model

"""normalize_: measure the statistics of a network's batch norms again, after its blocks have changed."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def normalize_(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Measure the statistics of all batch norms of a network again, as means over batches of images.

    A block that is replaced or left out changes what the following batch norms see. Other layers stay in evaluation
    mode, and the batch norms return to it. The source is ours.

    Args:
        model: A network in evaluation mode. Without batch norms, nothing is run.
        images: Batches (N, C, H, W) on the network's device. At least one.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.training = True  # not its children: timm has norms with a dropout in them
    try:
        with torch.no_grad():
            for batch in images:
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.training = False

"""One plain training loop, over data in memory."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnmod.training.data import ImageData


def train(
    model: nn.Module,
    data: ImageData,
    *,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 0.05,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Train a classifier in place: SGD with Nesterov momentum 0.9, weight decay 5e-4, a one-cycle learning rate.

    The last, incomplete batch of an epoch is left out. The seed sets the order of the images.

    Args:
        model: (N, C, H, W) → logits (N, classes); it is left in evaluation mode.
        data: What to train on.
        epochs: How many times every image is seen.
        batch_size: Images in a step.
        learning_rate: The highest of the cycle.
        seed: Of the shuffling.
        progress: Called after every epoch.
    """
    steps = len(data.train_images) // batch_size
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps)
    shuffle = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(data.train_images), generator=shuffle)
        for batch in order[: steps * batch_size].split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.train_images[batch]), data.train_labels[batch]).backward()
            optimizer.step()
            schedule.step()
        progress()
    model.eval()


@torch.inference_mode()
def accuracy_pct(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent, of the model as it is."""
    hits = sum(
        int((model(some).argmax(1) == their).sum())
        for some, their in zip(images.split(256), labels.split(256), strict=True)
    )
    return 100 * hits / len(images)

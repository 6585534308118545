"""Accuracy, every image counted once however many processes there are."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from cnnmod.training.images import Images
from cnnmod.training.processes import all_processes


@dataclass(frozen=True)
class Accuracy:
    """Of a network on some images.

    Attributes:
        top1_pct: The share of images whose class has the highest logit.
        top5_pct: The share of images whose class is among the five highest; `None` with five classes or fewer.
        images: How many were tested.
        broken: How many could not be read, and were left out.
    """

    top1_pct: float
    top5_pct: float | None
    images: int
    broken: int


def evaluate(
    model: nn.Module,
    images: Images,
    num_classes: int,
    *,
    batch_size: int = 256,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Accuracy:
    """Test a network, in evaluation mode; its mode is then what it was.

    Args:
        model: (N, C, H, W) → logits (N, num_classes).
        images: To test on.
        num_classes: How many there are.
        batch_size: Images at a time, in each process.
        precision: The autocast to run in, if any.
        progress: Called with the number of batches done, and how many there are.

    Raises:
        ValueError: The network has another number of classes.
    """
    processes = all_processes()
    device = processes.device
    assert device is not None
    tops = [top for top in (1, 5) if top == 1 or top < num_classes]
    metrics = [MulticlassAccuracy(num_classes, top_k=top, average="micro").to(device) for top in tops]
    if processes.num_processes > 1:  # each process has seen other images last
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
    mine = torch.arange(len(images))[processes.process_index :: processes.num_processes]
    order = mine.split(batch_size)
    tested = torch.zeros(1, dtype=torch.long, device=device)
    broken: set[str] = set()
    training = model.training
    model.eval()
    try:
        for done, batch in enumerate(images.batches(order), 1):
            batch = batch.to(device)
            with torch.inference_mode(), precision():
                logits = model(batch.images)
            if logits.shape != (len(batch.labels), num_classes):
                raise ValueError(f"the network has {logits.shape[-1]} classes, the images have {num_classes}")
            for metric in metrics:
                metric.update(logits.float(), batch.labels)
            tested += len(batch.labels)
            broken |= set(batch.broken)
            progress(done, len(order))
    finally:
        model.train(training)
    if processes.num_processes > 1:
        torch.distributed.all_reduce(tested)
    values = [round(100 * metric.compute().item(), 4) for metric in metrics]  # float32 has no more
    return Accuracy(values[0], values[1] if len(values) > 1 else None, int(tested), count_distinct(broken))


def count_distinct(names: set[str]) -> int:
    """How many names there are in all processes together; called in each of them."""
    return len(set(gather_object(sorted(names))))

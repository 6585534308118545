"""Evaluate a network on test images. Each image is evaluated once, for any number of processes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate.utils import gather_object
from torch import nn

from cnnmod.method.modes import evaluation_mode
from cnnmod.training.images import Images
from cnnmod.training.processes import all_processes, process_device
from cnnmod.training.scores import Score
from cnnmod.training.tasks import Classification, Task

_CLASSIFICATION = Classification()


def evaluate(
    model: nn.Module,
    images: Images,
    num_classes: int,
    *,
    task: Task = _CLASSIFICATION,
    batch_size: int | None = None,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Evaluate a network in evaluation mode. The mode of each layer is restored afterwards.

    Args:
        model: The network.
        images: The test images.
        num_classes: The number of classes.
        task: The task of the network.
        batch_size: The batch size of each process. Default: `task.test_batch_size`.
        precision: A function that creates an autocast context.
        progress: A callback with the number of batches done and in total.

    Returns:
        The score of the task.

    Raises:
        ValueError: If the network has another number of classes, or all images are broken.
        FloatingPointError: If a weight is not finite, or a buffer or a logit is NaN.
    """
    processes, device = all_processes(), process_device()
    if processes.num_processes > 1:  # each process trains on other images, so buffers differ
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
    metric = task.metric(num_classes, device)
    numbers = torch.arange(len(images))[processes.process_index :: processes.num_processes]
    order = numbers.split(batch_size or task.test_batch_size)
    tested = torch.zeros(1, dtype=torch.long, device=device)
    broken: set[str] = set()
    _check_weights(model)
    with evaluation_mode(model):
        for done, batch in enumerate(images.batches(order), 1):
            batch = batch.to(device)
            if len(batch):
                with torch.inference_mode(), precision():
                    outputs = model(batch.images)
                metric.update(outputs, batch.labels)
            tested += len(batch)
            broken |= set(batch.broken)
            progress(done, len(order))
    if processes.num_processes > 1:
        torch.distributed.all_reduce(tested)
    if broken and not tested:
        raise ValueError(f"all {len(images)} test images are broken, the first: {min(broken)}")
    return metric.compute(int(tested), count_distinct(broken))


def _check_weights(model: nn.Module) -> None:
    """Check the weights, because a detector with NaN weights returns no boxes, and no NaN."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise FloatingPointError(f"{name} of the network has values that are not finite")
    for name, buffer in model.named_buffers():  # a mask may be infinite
        if buffer.isnan().any():
            raise FloatingPointError(f"{name} of the network has NaN values")


def count_distinct(names: set[str]) -> int:
    """Count the distinct names over all processes. Call it in each process."""
    return len(set(gather_object(sorted(names))))

"""A network on test images, every image counted once however many processes there are."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate.utils import gather_object
from torch import nn

from cnnmod.training.images import Images
from cnnmod.training.processes import all_processes
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
    """Test a network, in evaluation mode; its mode is then what it was.

    Args:
        model: The network.
        images: To test on.
        num_classes: How many there are.
        task: What the network does.
        batch_size: Images at a time, in each process; the task's own if not given.
        precision: The autocast to run in, if any.
        progress: Called with the number of batches done, and how many there are.

    Raises:
        ValueError: The network has another number of classes, or all images are broken.
    """
    processes = all_processes()
    device = processes.device
    assert device is not None
    if processes.num_processes > 1:  # each process has seen other images last
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
    metric = task.metric(num_classes, device)
    mine = torch.arange(len(images))[processes.process_index :: processes.num_processes]
    order = mine.split(batch_size or task.test_batch_size)
    tested = torch.zeros(1, dtype=torch.long, device=device)
    broken: set[str] = set()
    training = model.training
    model.eval()
    try:
        for done, batch in enumerate(images.batches(order), 1):
            batch = batch.to(device)
            if len(batch):
                with torch.inference_mode(), precision():
                    outputs = model(batch.images)
                metric.update(outputs, batch.labels)
            tested += len(batch)
            broken |= set(batch.broken)
            progress(done, len(order))
    finally:
        model.train(training)
    if processes.num_processes > 1:
        torch.distributed.all_reduce(tested)
    if broken and not tested:
        raise ValueError(f"all {len(images)} test images are broken, the first: {min(broken)}")
    return metric.compute(int(tested), count_distinct(broken))


def count_distinct(names: set[str]) -> int:
    """How many names there are in all processes together; called in each of them."""
    return len(set(gather_object(sorted(names))))

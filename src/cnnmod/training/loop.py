"""The training loop, for one or several processes."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from accelerate import PartialState
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cnnmod.training.evaluate import count_distinct, evaluate
from cnnmod.training.images import Data, mix_seeds
from cnnmod.training.processes import all_processes, process_device
from cnnmod.training.recipe import Recipe
from cnnmod.training.rows import build_teacher
from cnnmod.training.state import State, check_loss
from cnnmod.training.step import Step, autocast, compiled, make_optimizer
from cnnmod.training.sync_batch_norm import sync_batch_norm
from cnnmod.training.tasks import Loss

_LOG_EVERY = 20  # steps; reading the loss synchronizes the GPU


class Record(Protocol):
    """Saves the state and logs the metrics of a training."""

    def restore(self, state: State) -> dict[str, Any]:
        """Load the last saved state and return its progress. Return `{}` without changes if nothing was saved."""
        ...

    def save(self, state: State, progress: dict[str, Any], loss: Tensor) -> None:
        """Called after every step with its loss. It may skip saving, and raises if a saved value is not finite."""
        ...

    def save_best(self, model: nn.Module) -> None:
        """Called when a network has a new best score on the validation images."""
        ...

    def log(self, values: dict[str, Any]) -> None:
        """Log metrics. Called every few steps and after every epoch."""
        ...


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    seed: int = 0,
    loss: Loss | None = None,
    record: Record | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, rate: None,
) -> nn.Module:
    """Train a network in place with a recipe.

    All randomness is a function of the seed and the epoch, step or image index. Therefore a resumed training reaches
    the same weights, and the images of a step do not depend on the number of processes.

    Args:
        model: A network for the task of the recipe. After training it is in evaluation mode, on the training device.
        data: The training images, and the validation images that select the best checkpoint.
        recipe: The recipe.
        seed: The seed of the image order, the augmentation and random layers.
        loss: A function (model, images, labels) → loss that replaces the loss of the task.
        record: Saves the state, logs metrics, and resumes an interrupted training.
        progress: Called after every step with the steps done, the total steps, and the images per second.

    Returns:
        The network to evaluate: the model itself, or its moving average.

    Raises:
        ValueError: If there are fewer images than the batch size, or the batch size is not divisible among the
            processes.
        FloatingPointError: If the loss or a saved value is not finite.

    Examples:
        >>> from cnnmod.networks import build_mod
        >>> from cnnmod.training.data import open_data
        >>> from cnnmod.training.recipes import recipe
        >>> short = recipe("digits", ["epochs=1", "warmup_epochs=0"])
        >>> model = build_mod(short.networks.network, short.networks.config, in_chans=1, **short.networks.network_args)
        >>> model = train(model, open_data("digits", short), short)
    """
    processes = all_processes()
    _check(data, recipe, processes)
    options, system = recipe.optimization, recipe.system
    steps = len(data.train) // options.batch_size
    device = process_device()
    model.to(device).to(memory_format=torch.channels_last if system.channels_last else torch.contiguous_format).train()
    if system.sync_batch_norm and processes.num_processes > 1:
        model = sync_batch_norm(model)
    optimizer, schedule = make_optimizer(model, recipe, steps)
    average = ModelEmaV3(model, decay=options.ema_decay, use_warmup=True) if options.ema_decay else None
    tested = model if average is None else average.module
    scaler = torch.amp.GradScaler(device.type, enabled=system.precision == "fp16")
    state = State(model, optimizer, None if average is None else average.module, scaler)
    # Called before any file is written, since it may raise.
    compute_loss = loss or recipe.task.loss_with(build_teacher(recipe, data.num_classes), data.num_classes, device)
    restored: dict[str, Any] = record.restore(state) if record else {}
    done, best = restored.get("step", 0), restored.get("best")
    parallel = DistributedDataParallel(model) if processes.num_processes > 1 else model
    step = Step(
        recipe=recipe,
        model=parallel,
        forward=compiled(parallel, recipe, device) if system.compile else parallel,
        loss=compute_loss,
        optimizer=optimizer,
        scaler=scaler,
    )

    local_batch_size = options.batch_size // processes.num_processes
    broken: set[str] = set()
    for epoch in range(done // steps, options.epochs):
        order = _order(len(data.train), options.batch_size, seed, epoch)
        start = processes.process_index * local_batch_size
        local_order = order[done - epoch * steps :, start : start + local_batch_size]
        started, since = time.perf_counter(), done
        for batch in data.train.batches(list(local_order), mix_seeds("epoch", seed, epoch)):
            torch.manual_seed(mix_seeds("step", seed, done, processes.process_index))
            broken |= set(batch.broken)
            schedule.step_update(done)
            if not len(batch):
                raise ValueError(f"all images of a batch are broken; the first error: {batch.broken[0]}")
            step_loss = step(batch)
            done += 1
            if average is not None:
                average.update(model, step=done)
            ends_epoch = done == (epoch + 1) * steps
            rate = (done - since) * options.batch_size / (time.perf_counter() - started)
            if ends_epoch or done % _LOG_EVERY == 0:
                mean_loss = _mean_over_processes(step_loss, processes)
                check_loss(mean_loss, f"at step {done} (epoch {epoch + 1})")
                values = {"step": done, "epoch": epoch + 1, "loss": mean_loss, "images_per_s": round(rate, 1)}
                values |= {"learning_rate": optimizer.param_groups[0]["lr"], "broken": count_distinct(broken)}
                if record:
                    record.log(values)
            if ends_epoch and data.validation is not None:
                precision = autocast(recipe, device)
                score = evaluate(tested, data.validation, data.num_classes, task=recipe.task, precision=precision)
                if record:
                    values = {"step": done, "epoch": epoch + 1, f"validation_{score.main}": score.value}
                    loss_value = score.to_dict().get("loss")
                    record.log(values | ({} if loss_value is None else {"validation_loss": loss_value}))
                if best is None or score.rank > best:
                    best = score.rank
                    if record:
                        record.save_best(tested)
            if record:
                record.save(state, {"step": done, "epoch_ends": ends_epoch, "best": best}, step_loss)
            progress(done, options.epochs * steps, f"{rate:,.0f} images/s")
    return tested.eval()


def _check(data: Data, recipe: Recipe, processes: PartialState) -> None:
    batch_size, accumulate = recipe.optimization.batch_size, recipe.optimization.accumulate
    if len(data.train) < batch_size:
        raise ValueError(f"there are {len(data.train)} training images, fewer than batch_size = {batch_size}")
    if batch_size % (processes.num_processes * accumulate):
        raise ValueError(
            f"batch_size = {batch_size} is not a multiple of {processes.num_processes} processes × "
            f"accumulate = {accumulate}"
        )


def _order(count: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """Return the image indices of each step of an epoch, (steps, batch_size), without the last incomplete batch."""
    generator = torch.Generator().manual_seed(mix_seeds("order", seed, epoch))
    steps = count // batch_size
    return torch.randperm(count, generator=generator)[: steps * batch_size].view(steps, batch_size)


def _mean_over_processes(loss: Tensor, processes: PartialState) -> float:
    if processes.num_processes > 1:
        torch.distributed.all_reduce(loss)
    return float(loss) / processes.num_processes

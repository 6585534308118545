"""A training step: forward, backward and optimizer step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.optim._optim_factory import create_optimizer_v2
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cnnmod.method.optimize import param_groups
from cnnmod.training.images import Batch
from cnnmod.training.recipe import Recipe
from cnnmod.training.tasks import Loss


@dataclass(frozen=True)
class Step:
    """A training step of a recipe. A call with a batch updates the weights and returns the mean loss.

    Attributes:
        recipe: The recipe, which sets gradient accumulation, precision and gradient clipping.
        model: The network, wrapped in DistributedDataParallel if there are several processes.
        forward: The same network, compiled if the recipe enables it.
        loss: A function (model, images, labels) → loss.
        optimizer: The optimizer of the model.
        scaler: The gradient scaler, which is enabled for fp16.
    """

    recipe: Recipe
    model: nn.Module
    forward: Callable[..., Tensor]
    loss: Loss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def __call__(self, batch: Batch) -> Tensor:
        device = next(self.model.parameters()).device
        precision = autocast(self.recipe, device)
        batch = batch.to(device, torch.channels_last if self.recipe.system.channels_last else torch.contiguous_format)
        parts = list(batch.chunk(self.recipe.optimization.accumulate))  # fewer parts if too many images are broken
        self.optimizer.zero_grad()
        losses: list[Tensor] = []
        for number, part in enumerate(parts, 1):
            with _no_sync(self.model) if number < len(parts) else nullcontext():
                with precision():
                    loss = self.loss(self.forward, part.images, part.labels) * (len(part) / len(batch))
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        if self.recipe.optimization.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimization.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return torch.stack(losses).sum()


def make_optimizer(model: nn.Module, recipe: Recipe, steps: int) -> tuple[torch.optim.Optimizer, Scheduler]:
    """Return the optimizer of the recipe and its schedule over epochs of `steps` steps.

    Channel selectors have a smaller learning rate (see `param_groups`), except with SGD.
    """
    options = recipe.optimization
    groups = param_groups(
        model,
        options.learning_rate,
        weight_decay=options.weight_decay,
        decay_norms=options.decay_norms,
        selector_lr_scale=1.0 if _is_sgd(options.optimizer) else options.selector_lr_scale,
        mod_lr_scale=options.mod_lr_scale if recipe.networks.mod_weights is None else 1.0,
    )
    for group in groups:  # the schedules of timm multiply the scheduled learning rate by this factor
        group["lr_scale"] = group["lr"] / options.learning_rate
        group["lr"] = options.learning_rate
    optimizer = create_optimizer_v2(groups, opt=options.optimizer, lr=options.learning_rate, momentum=options.momentum)
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched={"step": "multistep", "cosine": "cosine", "poly": "poly"}[options.schedule],
        num_epochs=options.epochs,
        decay_milestones=list(options.milestones),
        decay_rate=options.decay,
        min_lr=options.learning_rate / 100 if options.schedule == "poly" else 0.0,
        warmup_epochs=options.warmup_epochs,
        warmup_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )
    assert schedule is not None
    return optimizer, schedule


def _is_sgd(optimizer: str) -> bool:
    """Return whether the step size of a timm optimizer is proportional to the gradient."""
    name = optimizer.lower()
    return "sgd" in name or "momentum" in name or "nesterov" in name


def autocast(recipe: Recipe, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Return a function that creates the autocast context for the precision of the recipe."""
    if recipe.system.precision == "fp32":
        return nullcontext
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[recipe.system.precision]
    return partial(torch.autocast, device.type, dtype=dtype)


def compiled(
    model: nn.Module, recipe: Recipe, device: torch.device, backend: str = "inductor"
) -> Callable[..., Tensor]:
    """Return the network, compiled together with the autocast of the recipe.

    Torch compiles the backward under the autocast that is enabled around the compiled function. In eager mode, the
    backward runs without autocast, so that the gradients of channel selectors are in float32. With several processes,
    the gradients of channel selectors are in the dtype of autocast, since torch does not compile the call of
    DistributedDataParallel together with other code.
    """
    if isinstance(model, DistributedDataParallel):
        return torch.compile(model, backend=backend)
    precision = autocast(recipe, device)

    def forward(*inputs: Any, **named: Any) -> Any:
        with precision():
            return model(*inputs, **named)

    optimized = torch.compile(forward, backend=backend)

    def run(*inputs: Any, **named: Any) -> Any:
        with torch.autocast(device.type, enabled=False):
            return optimized(*inputs, **named)

    return run


def _no_sync(model: nn.Module) -> AbstractContextManager[object]:
    """Return a context without synchronization of gradients between processes."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

"""One step of training: forward, backward, and what the optimizer makes of the gradients."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from timm.optim._optim_factory import create_optimizer_v2
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cnnmod.method.blocks import ChannelSelector
from cnnmod.training.images import Batch
from cnnmod.training.recipe import Recipe
from cnnmod.training.tasks import Loss

_SGD = ("sgd", "momentum")  # steps as long as gradients are large
_SELECTOR_LR_SCALE = 0.005


@dataclass(frozen=True)
class Step:
    """A step as a recipe wants it; called with a batch it changes the weights and returns the mean loss.

    Attributes:
        recipe: Says in how many parts, at which precision, and where gradients are clipped.
        model: Whose weights change; within DistributedDataParallel if there are several processes.
        forward: The same, compiled or not.
        loss: (model, images, labels) → loss.
        optimizer: Of the model.
        scaler: Of the loss, where fp16 needs it.
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
        parts = list(batch.chunk(self.recipe.optimization.accumulate))  # fewer, where broken images left too few
        self.optimizer.zero_grad()
        losses: list[Tensor] = []
        for part, some in enumerate(parts, 1):
            with _not_shared(self.model) if part < len(parts) else nullcontext():
                with precision():
                    loss = self.loss(self.forward, some.images, some.labels) * (len(some) / len(batch))
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        if self.recipe.optimization.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimization.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return torch.stack(losses).sum()


def make_optimizer(model: nn.Module, recipe: Recipe, steps: int) -> tuple[torch.optim.Optimizer, Scheduler]:
    """The recipe's optimizer, and its schedule over epochs of so many steps.

    Optimizers but SGD make steps of one length of gradients of any size. A channel selector's are small, and such
    steps drive all of its hidden units below zero in a few hundred of them, from where no gradient leads back: it then
    selects the same channels for every image. So its steps are shorter, and Muon leaves it to AdamW.
    """
    options = recipe.optimization
    selectors = [name for name, module in model.named_modules() if isinstance(module, ChannelSelector)]
    optimizer = create_optimizer_v2(
        model,
        opt=options.optimizer,
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        filter_bias_and_bn=not options.decay_norms,
        fallback_list=[] if options.optimizer in _SGD else [f"{name}.*" for name in selectors],
    )
    for group in optimizer.param_groups:
        if group.get("use_fallback"):
            group["lr_scale"] = _SELECTOR_LR_SCALE
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


def autocast(recipe: Recipe, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """The recipe's precision, as a context to run the network in."""
    if recipe.system.precision == "fp32":
        return nullcontext
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[recipe.system.precision]
    return partial(torch.autocast, device.type, dtype=dtype)


def _not_shared(model: nn.Module) -> AbstractContextManager[object]:
    """Within it gradients are gathered in this process only."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

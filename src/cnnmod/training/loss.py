"""What a step makes smaller: of a classifier cross-entropy, of mixed images if the recipe says so, and the distance to
a teacher; of a segmentation network its two heads' cross-entropy; of a detector what torchvision's own sums to."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice

from cnnmod.training.recipe import IGNORED, Recipe

Loss = Callable[[Callable[..., Any], Any, Any], Tensor]  # model, images, labels → loss


def make_loss(recipe: Recipe, num_classes: int, teacher: nn.Module | None, device: torch.device) -> Loss:
    """A function (model, images, labels) → loss, as the recipe says; the teacher is put into evaluation mode."""
    if recipe.task == "segmentation":
        return partial(_loss_of_pixels, recipe)
    if recipe.task == "detection":
        return _loss_of_boxes
    mixes: list[nn.Module] = []
    if recipe.mixup:
        mixes.append(MixUp(alpha=recipe.mixup, num_classes=num_classes))
    if recipe.cutmix:
        mixes.append(CutMix(alpha=recipe.cutmix, num_classes=num_classes))
    mix = RandomChoice(mixes) if mixes else None
    if teacher is not None:
        teacher.to(device).eval()

    def loss(model: Callable[..., Tensor], images: Tensor, targets: Tensor) -> Tensor:
        if mix is not None:
            images, targets = mix(images, targets)
        logits = model(images).float()
        hard = nn.functional.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
        if teacher is None:
            return hard
        temperature = recipe.distill_temperature
        with torch.no_grad():
            taught = teacher(images).float()
        soft = nn.functional.kl_div(
            (logits / temperature).log_softmax(1),
            (taught / temperature).log_softmax(1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - recipe.distill_weight) * hard + recipe.distill_weight * temperature**2 * soft

    return loss


def _loss_of_pixels(recipe: Recipe, model: Callable[..., dict[str, Tensor]], images: Tensor, labels: Tensor) -> Tensor:
    counted = (labels != IGNORED).sum().clamp(min=1)  # a crop may hold nothing else
    losses = {
        head: nn.functional.cross_entropy(
            logits.float(), labels, ignore_index=IGNORED, label_smoothing=recipe.label_smoothing, reduction="sum"
        )
        / counted
        for head, logits in model(images).items()
    }
    return losses["out"] + recipe.aux_weight * losses["aux"] if "aux" in losses else losses["out"]


def _loss_of_boxes(
    model: Callable[..., dict[str, Tensor]], images: list[Tensor], labels: list[dict[str, Tensor]]
) -> Tensor:
    return torch.stack(list(model(images, labels).values())).sum()

"""Measure what the MoD blocks of a trained network and their selection contribute to its score."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from scipy.stats import t
from torch import Tensor, nn

from cnnmod.method.convert import mod_blocks, swap_
from cnnmod.method.modes import evaluation_mode
from cnnmod.method.replay import Selections, recorded_for_replay, replayed_selections
from cnnmod.method.skip import Skip
from cnnmod.records.progress import Progress
from cnnmod.training.images import Images
from cnnmod.training.scores import Score
from cnnmod.training.tasks import Task

_MOST_IMAGES, _MOST_SCENES = 2000, 500  # scenes are large, and their scores take long
_PARTS = 10  # parts of the images, for the intervals


@dataclass(frozen=True)
class Decrease:
    """How much worse the score is after a change, such as the removal of the MoD blocks.

    Attributes:
        points: The decrease of the score. For a score whose lower values are better, the increase.
        plus_minus: Half of the 95 % interval of `points`, computed from ten parts of the images. `None` if fewer than
            three parts have a score.
    """

    points: float
    plus_minus: float | None

    @property
    def is_certain(self) -> bool:
        """Whether the interval is above 0."""
        return self.plus_minus is not None and self.points > self.plus_minus

    def __str__(self) -> str:
        points = f"{abs(self.points):.1f}" + ("" if self.plus_minus is None else f" ± {self.plus_minus:.1f}")
        return f"{points} points {'better' if round(self.points, 1) < 0 else 'worse'}"


@dataclass(frozen=True)
class Worth:
    """What the MoD blocks of a network and their selection contribute to its score (ours).

    Attributes:
        images: The number of images.
        measure: The title of the score, such as `"top-1"`.
        unit: The unit of the score.
        score: The score of the network.
        without_blocks: The decrease without the MoD blocks.
        exchanged: The decrease if each image gets the selection and the scores of another image. `None` if all images
            have the same selection and scores.
        fixed: The decrease if all images get the same selection: the channels that are selected most often, with their
            mean scores. `None` if `exchanged` is `None`.
    """

    images: int
    measure: str
    unit: str
    score: float
    without_blocks: Decrease
    exchanged: Decrease | None
    fixed: Decrease | None

    def __str__(self) -> str:
        """Return the conclusion in one sentence."""
        start = f"{self.measure} is {self.score:.1f} {self.unit} on {self.images:,} images"
        without_blocks = f"it is {self.without_blocks} without the MoD blocks"
        if self.without_blocks.plus_minus is None:
            return f"{start}; {without_blocks}; these are too few images for a conclusion"
        if not self.without_blocks.is_certain:
            return f"{start}; {without_blocks}, so they are idle; use the control, which is faster"
        if self.exchanged is None or self.fixed is None:
            return f"{start}; {without_blocks}, and all images have the same selection"
        conclusion = "useful" if self.exchanged.is_certain or self.fixed.is_certain else "not needed"
        return (
            f"{start}; {without_blocks}, {self.exchanged} with the selections and scores of other images, "
            f"and {self.fixed} with a fixed selection and fixed scores, so choosing for each image is "
            f"{conclusion}"
        )


def mod_worth(
    model: nn.Module,
    images: Images,
    num_classes: int,
    task: Task,
    *,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    progress: Progress = lambda what, done, total: None,
) -> Worth:
    """Measure what the MoD blocks of a network contribute to its score, on at most 2,000 images.

    Tasks whose labels are not one class for each image use at most 500.

    The network is evaluated unchanged, without its MoD blocks, with selections exchanged between images, and with a
    fixed selection. The decrease without the MoD blocks is not the difference to the control. A control is trained
    without MoD blocks and therefore has a higher score than the network after their removal.

    Args:
        model: A network with MoD blocks in the training form. It runs in evaluation mode, and its mode is restored.
        images: The test images.
        num_classes: The number of classes.
        task: The task of the network.
        precision: A function that creates an autocast context.
        progress: A callback (description, batches done, batches in total).

    Raises:
        ValueError: If the network has no MoD blocks, is lowered, or calls a MoD block several times for an image.
        FloatingPointError: If a logit is NaN.
    """
    blocks = mod_blocks(model)
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no MoD blocks")
    numbers = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    numbers = numbers[: _MOST_IMAGES if task.one_class_each else _MOST_SCENES]
    order = numbers.split(max(1, min(task.test_batch_size, -(-len(numbers) // _PARTS))))
    # Whether the selection or the scores of a block depend on the image.
    selects = any(block.config.select != "random" and hasattr(block, "selector") for block in blocks.values())
    done, total = 0, len(order) * (4 if selects else 2)
    device = next(model.parameters()).device

    def ranks() -> tuple[Tensor, Score]:
        """Return the rank of the score on all images, followed by the ranks on each part, and the score."""
        nonlocal done
        parts = min(_PARTS, len(order))
        metrics = [task.metric(num_classes, device) for _ in range(1 + parts)]
        counts = [0] * len(metrics)
        for number, batch in enumerate(images.batches(order)):
            batch = batch.to(device)
            if len(batch):
                with torch.inference_mode(), precision():
                    outputs = model(batch.images)
                for part in (0, 1 + number * parts // len(order)):
                    metrics[part].update(outputs, batch.labels)
                    counts[part] += len(batch)
            done += 1
            progress("worth of the MoD blocks", done, total)
        scores = [metric.compute(count, 0) for metric, count in zip(metrics, counts, strict=True) if count]
        if not scores:
            raise ValueError("there is no test image")
        return torch.tensor([score.rank for score in scores]), scores[0]

    def replayed_ranks(change: Callable[[Selections], Selections]) -> Tensor:
        with replayed_selections(model, {name: change(recording) for name, recording in selections.items()}):
            return ranks()[0]

    with evaluation_mode(model):
        with recorded_for_replay(model) as selections:
            normal, score = ranks()
        if any(sum(map(len, recording.index)) not in (0, score.images) for recording in selections.values()):
            raise ValueError("a MoD block is called several times for an image, so selections cannot be exchanged")
        replaced = swap_(model, {name: Skip(block.config).eval() for name, block in blocks.items()})
        try:
            without_blocks = _decrease(normal - ranks()[0])
        finally:
            swap_(model, replaced)
        exchanged = _decrease(normal - replayed_ranks(Selections.exchanged)) if selects else None
        fixed = _decrease(normal - replayed_ranks(Selections.fixed)) if selects else None
    value = round(score.value, 4)
    return Worth(score.images, task.score.title, task.score.unit, value, without_blocks, exchanged, fixed)


def _decrease(decrease: Tensor) -> Decrease:
    parts = decrease[1:].double()
    parts = parts[parts.isfinite()]  # a part may have no label that counts
    plus_minus = None
    if len(parts) > 2:
        plus_minus = round(float(t.ppf(0.975, len(parts) - 1)) * parts.std().item() / len(parts) ** 0.5, 4)
    return Decrease(round(decrease[0].item(), 4), plus_minus)

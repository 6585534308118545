"""LossTable: what each choice costs in cross-entropy and accuracy, when it alone is put into the dense network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cnnmod.method.choices import SKIP
from cnnmod.method.convert import swap_
from cnnmod.method.skip import Skip
from cnnmod.records.progress import Progress
from cnnmod.tuning.candidates import Batches, Candidates
from cnnmod.tuning.space import KEEP, Labels, Space

_CHECKS = 30  # random combinations, each with a pass over the held-out images


@dataclass(frozen=True)
class Loss:
    """The result on held-out images.

    Attributes:
        cross_entropy: The mean cross-entropy.
        accuracy_pct: The top-1 accuracy in %.
    """

    cross_entropy: float
    accuracy_pct: float


@dataclass(frozen=True)
class LossCheck:
    """A random combination, of which the table predicts the loss.

    Attributes:
        labels: The label of each block.
        measured: The measured result.
    """

    labels: dict[str, str]
    measured: Loss


@dataclass(frozen=True)
class LossTable:
    """The results of the dense network, of each choice alone, and of random combinations.

    Attributes:
        network: A hash of the weights of the dense network.
        dense: The result of the dense network.
        alone: The result of each choice except for `"keep"`, by the name of the block and the label.
        checks: Random combinations.
    """

    network: str
    dense: Loss
    alone: dict[str, dict[str, Loss]] = field(default_factory=dict)
    checks: list[LossCheck] = field(default_factory=list)

    def cost(self, name: str, label: str) -> float:
        """Return the increase of the cross-entropy when one choice is put in."""
        return 0.0 if label == KEEP else self.alone[name][label].cross_entropy - self.dense.cross_entropy

    def predict(self, labels: Labels) -> Loss:
        """Return the predicted change of a combination: the sums over its choices."""
        alone = [self.alone[name][label] for name, label in labels.items() if label != KEEP]
        return Loss(
            sum(loss.cross_entropy - self.dense.cross_entropy for loss in alone),
            sum(loss.accuracy_pct - self.dense.accuracy_pct for loss in alone),
        )

    def costs(self, space: Space) -> dict[str, dict[str, float]]:
        """Return the costs for `solve`."""
        return {block.name: {label: self.cost(block.name, label) for label in block.choices} for block in space.blocks}

    def rank_correlation(self) -> float | None:
        """Return Spearman's rank correlation of predicted and measured cross-entropy of the random combinations.

        It is `None` if all predictions or all measurements are equal.
        """
        from scipy.stats import spearmanr

        predicted = [self.predict(check.labels).cross_entropy for check in self.checks]
        measured = [check.measured.cross_entropy for check in self.checks]
        if min(len(set(predicted)), len(set(measured))) < 2:
            return None
        result: Any = spearmanr(predicted, measured)
        return float(result.statistic)


def measure_losses(
    model: nn.Module,
    space: Space,
    candidates: Candidates,
    images: Batches,
    network: str,
    *,
    finished: LossTable | None = None,
    save: Callable[[LossTable], None] = lambda table: None,
    progress: Progress = lambda description, done, total: None,
) -> LossTable:
    """Measure the table of a network.

    Args:
        model: The dense network, in evaluation mode. It is restored afterwards.
        space: Its blocks and their choices.
        candidates: The trained MoD blocks.
        images: Held-out images with labels.
        network: A hash of the weights of the network.
        finished: A table of an interrupted measurement.
        save: Called with the table after each measurement.
        progress: Called after each measurement.

    Raises:
        ValueError: If the finished table is of a network with other weights.
        FloatingPointError: If a cross-entropy is not finite.
    """
    if finished is not None and finished.network != network:
        raise ValueError("the losses were measured for other weights of the network; use a new folder")
    table = finished or LossTable(network, _evaluate(model, images))
    combinations = [{block.name: label} for block in space.blocks for label in block.choices if label != KEEP]
    checks = space.random(_CHECKS, seed=1)
    total = len(combinations) + len(checks)
    for done, labels in enumerate(combinations, 1):
        ((name, label),) = labels.items()
        if label not in table.alone.get(name, {}):
            with replaced(model, candidates, labels):
                table.alone.setdefault(name, {})[label] = _evaluate(model, images)
            save(table)
        progress("accuracy of each choice", done, total)
    for done, labels in enumerate(checks, 1):
        if done > len(table.checks):
            with replaced(model, candidates, labels):
                table.checks.append(LossCheck(labels, _evaluate(model, images)))
            save(table)
        progress("accuracy of each choice", len(combinations) + done, total)
    return table


@contextmanager
def replaced(model: nn.Module, candidates: Candidates, labels: Labels) -> Iterator[None]:
    """Put choices into the dense network, and restore it at the end."""
    layers: dict[str, nn.Module] = {}
    for name, label in labels.items():
        if label != KEEP:
            layers[name] = Skip().eval() if label == SKIP else candidates.layers[name, label]
            layers |= {rest: nn.Identity().eval() for rest in candidates.blocks[name].rest}
    dense = swap_(model, layers)
    try:
        yield
    finally:
        swap_(model, dense)


def _evaluate(model: nn.Module, images: Batches) -> Loss:
    device = next(model.parameters()).device
    loss, correct, count = 0.0, 0, 0
    with torch.inference_mode():
        for batch, labels in images:
            logits, labels = model(batch.to(device)).float(), labels.to(device)
            loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            correct += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    mean = torch.tensor(loss / max(1, count))
    if not mean.isfinite():
        raise FloatingPointError("the cross-entropy on the held-out images is not finite")
    return Loss(float(mean), 100 * correct / max(1, count))

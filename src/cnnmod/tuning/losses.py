"""LossTable: the cross-entropy and accuracy of each choice alone, of random combinations and of plans."""

from dataclasses import dataclass, field
from typing import Any

from cnnmod.tuning.space import KEEP, Labels, Space


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
class MeasuredLoss:
    """The result of a combination.

    Attributes:
        labels: The label of each block.
        measured: The measured result.
    """

    labels: dict[str, str]
    measured: Loss


@dataclass(frozen=True)
class LossTable:
    """The results of the dense network, of each choice alone, of random combinations, and of plans.

    Attributes:
        network: A hash of the weights of the dense network.
        dense: The result of the dense network.
        normalized: The same, with new statistics of the batch norms, as all other networks.
        alone: The result of each choice except for `"keep"`, by the name of the block and the label.
        checks: Random combinations.
        plans: Combinations from which the plans were chosen.
    """

    network: str
    dense: Loss
    normalized: Loss
    alone: dict[str, dict[str, Loss]] = field(default_factory=dict)
    checks: list[MeasuredLoss] = field(default_factory=list)
    plans: list[MeasuredLoss] = field(default_factory=list)

    def cost(self, name: str, label: str) -> float:
        """Return the increase of the cross-entropy when one choice is put in."""
        return 0.0 if label == KEEP else self.alone[name][label].cross_entropy - self.normalized.cross_entropy

    def predict(self, labels: Labels) -> Loss:
        """Return the predicted change of a combination: the sums over its choices."""
        alone = [self.alone[name][label] for name, label in labels.items() if label != KEEP]
        return Loss(
            sum(loss.cross_entropy - self.normalized.cross_entropy for loss in alone),
            sum(loss.accuracy_pct - self.normalized.accuracy_pct for loss in alone),
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

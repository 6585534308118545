"""Tuned: the plans of a network for several budgets."""

from dataclasses import dataclass

from cnnmod.method.choices import SKIP, Choices
from cnnmod.records.text import TextTable
from cnnmod.tuning.space import KEEP, Space
from cnnmod.tuning.times import TimeTable


@dataclass(frozen=True)
class TunedPlan:
    """The best combination within a budget.

    Attributes:
        budget: The budget, as a fraction of the dense network's time.
        labels: The label of each block.
        time: The predicted time, as a fraction of the dense network's time.
        cross_entropy: The predicted increase of the cross-entropy, before fine-tuning. `None` without images.
        accuracy_pct: The predicted change of the accuracy in points, before fine-tuning. `None` without images.
    """

    budget: float
    labels: dict[str, str]
    time: float
    cross_entropy: float | None
    accuracy_pct: float | None

    def count(self) -> tuple[int, int, int]:
        """Return the numbers of MoD blocks, skipped blocks and kept blocks."""
        labels = list(self.labels.values())
        kept, skipped = labels.count(KEEP), labels.count(SKIP)
        return len(labels) - kept - skipped, skipped, kept


@dataclass(frozen=True)
class Tuned:
    """The result of `tune`. It is printed as two tables: the chosen plan and the plans for all budgets.

    Attributes:
        space: The blocks and their choices.
        runtime: The runtime in which the times were measured.
        times: The measured times.
        chosen: The plan for the budget.
        front: The plans for several budgets, the largest budget first.
        with_images: Whether the plans were made from measured losses.
        rank_correlation: Spearman's rank correlation between the predicted and the measured cross-entropy of random
            combinations. `None` without images, or if all of them are equal.
    """

    space: Space
    runtime: str
    times: TimeTable
    chosen: TunedPlan
    front: tuple[TunedPlan, ...]
    with_images: bool = False
    rank_correlation: float | None = None

    @property
    def choices(self) -> Choices:
        """The chosen plan, as `convert_` takes it."""
        return self.space.choices(self.chosen.labels)

    def conclusion(self) -> str:
        """Return what the plans say about MoD blocks for this network, or an empty text."""
        mod, skipped, _ = self.chosen.count()
        if not mod + skipped:
            return "The dense network meets the budget, so every block is kept."
        if self.with_images and not any(plan.count()[0] for plan in self.front):
            return "No plan has a MoD block: leaving blocks out is better everywhere, so MoD is not for this network."
        return "" if mod else "The plan has no MoD block: skipped blocks alone are better within this budget."

    def __str__(self) -> str:
        lines = [str(self._blocks()), "", str(self._front())]
        error = f"{self.times.largest_error_pct():.1f} %"
        lines += ["", f"Largest error of the predicted time of {len(self.times.checks)} other combinations: {error}."]
        if self.rank_correlation is not None:
            lines.append(
                "Rank correlation of predicted and measured cross-entropy of random combinations: "
                f"{self.rank_correlation:.2f}."
            )
        return "\n".join([*lines, *filter(None, [self.conclusion()])])

    def _blocks(self) -> TextTable:
        rows = [
            [block.name, str(block.channels), label, f"{100 * self.times.saves(block, label):.1f}"]
            for block in self.space.blocks
            for label in [self.chosen.labels[block.name]]
        ]
        time_ms = self.chosen.time * self.times.dense_ms
        title = f"{self.space.network}: {self._summary(self.chosen)} in {self.runtime}, {time_ms:.2f} ms"
        return TextTable(title, ["block", "C", "choice", "saves %"], rows)

    def _front(self) -> TextTable:
        rows = []
        for plan in self.front:
            loss = "" if plan.cross_entropy is None else f"{plan.cross_entropy:+.3f}"
            points = "" if plan.accuracy_pct is None else f"{plan.accuracy_pct:+.1f}"
            numbers = [f"{plan.time:.3f}", f"{plan.time * self.times.dense_ms:.2f}", f"{1 / plan.time:.2f}"]
            rows.append([f"{plan.budget:.3f}", *numbers, *map(str, plan.count()), loss, points])
        header = ["budget", "time", "ms", "speedup", "MoD", "skipped", "kept", "cross-entropy", "accuracy"]
        return TextTable("Predicted for several budgets, before fine-tuning", header, rows)

    def _summary(self, plan: TunedPlan) -> str:
        mod, skipped, kept = plan.count()
        return f"{mod} MoD blocks, {skipped} skipped, {kept} kept; {plan.time:.3f} of the dense time"

"""Tuned: the plans of a network for several budgets."""

from dataclasses import dataclass

from cnnmod.method.choices import SKIP, Choice, Choices
from cnnmod.method.config import MoDConfig
from cnnmod.records.text import TextTable
from cnnmod.tuning.losses import LossTable
from cnnmod.tuning.space import KEEP, Labels, Space
from cnnmod.tuning.times import TimeTable


def count(labels: Labels) -> tuple[int, int, int]:
    """Return the numbers of MoD blocks, skipped blocks and kept blocks of a combination."""
    all_labels = list(labels.values())
    kept, skipped = all_labels.count(KEEP), all_labels.count(SKIP)
    return len(all_labels) - kept - skipped, skipped, kept


_UNCERTAIN_PCT = 10.0  # an error of the predicted times that makes a plan useless


@dataclass(frozen=True)
class TunedPlan:
    """The best combination within a budget.

    Attributes:
        budget: The budget, as a fraction of the dense network's time.
        labels: The label of each block.
        time: The predicted time, as a fraction of the dense network's time.
        cross_entropy: The increase of the cross-entropy on held-out images, before fine-tuning, over the dense network
            with new statistics of its batch norms. `None` without images.
        accuracy_pct: The change of the accuracy on them in points, against the same network. `None` without images.
    """

    budget: float
    labels: dict[str, str]
    time: float
    cross_entropy: float | None
    accuracy_pct: float | None

    def count(self) -> tuple[int, int, int]:
        """Return the numbers of MoD blocks, skipped blocks and kept blocks."""
        return count(self.labels)

    def counted(self) -> str:
        """Return these numbers in words."""
        mod, skipped, kept = self.count()
        return f"{mod} MoD block{'s' * (mod != 1)}, {skipped} skipped, {kept} kept"


@dataclass(frozen=True)
class Tuned:
    """The result of `tune`. It is printed as two tables: the chosen plan and the plans for all budgets.

    Attributes:
        space: The blocks and their choices.
        runtime: The runtime in which the times were measured.
        times: The measured times.
        losses: The measured losses. `None` without images.
        chosen: The plan for the budget.
        front: The plans for several budgets, the largest budget first.
    """

    space: Space
    runtime: str
    times: TimeTable
    losses: LossTable | None
    chosen: TunedPlan
    front: tuple[TunedPlan, ...]

    @property
    def choices(self) -> Choices:
        """The chosen plan, as `convert_` takes it."""
        return self.space.choices(self.chosen.labels)

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's rank correlation between the predicted and the measured cross-entropy of random combinations.

        It is `None` without images, or if all predictions or all measurements are equal.
        """
        return None if self.losses is None else self.losses.rank_correlation()

    def conclusion(self) -> str:
        """Return what the plans say about MoD blocks for this network, or an empty text."""
        mod, skipped, _ = self.chosen.count()
        if not mod + skipped:
            return "The dense network meets the budget, so every block is kept."
        if self.losses is not None and not any(plan.count()[0] for plan in self.front):
            return "No plan has a MoD block: leaving blocks out is better everywhere, so MoD is not for this network."
        if not mod:
            return "The plan has no MoD block: skipped blocks alone are better within this budget."
        if any(_selects(choice) for choice in self.choices.values()):
            return ""
        read = "No MoD block of the plan selects channels by their scores"
        offered = any(_selects(choice) for block in self.space.blocks for choice in block.choices.values())
        if self.losses is None or not offered:
            return f"{read}."
        return f"{read}: selection is not worth its time here."

    def checks(self) -> list[str]:
        """Return sentences that say how well the predictions agree with measurements."""
        error = f"{self.times.largest_error_pct():.1f} %"
        lines = [f"Largest error of the predicted time of {len(self.times.checks)} other combinations: {error}."]
        if self.times.largest_error_pct() > _UNCERTAIN_PCT:
            lines.append(
                "These times are uncertain: run tune again on an idle machine, in a new folder and with more rounds."
            )
        if self.losses is not None and self.rank_correlation is not None:
            lines.append(
                f"Rank correlation of predicted and measured cross-entropy over {len(self.losses.checks)} random "
                f"combinations: {self.rank_correlation:.2f}."
            )
        return lines

    def __str__(self) -> str:
        tables = [str(self.block_table()), "", str(self.front_table()), ""]
        return "\n".join([*tables, *self.checks(), *filter(None, [self.conclusion()])])

    def block_table(self) -> TextTable:
        """Return the chosen plan block by block."""
        rows: list[list[str]] = []
        for block in self.space.blocks:
            label = self.chosen.labels[block.name]
            row = [block.name, str(block.channels), label, f"{100 * self.times.saves(block, label):.1f}"]
            rows.append(row if self.losses is None else [*row, f"{self.losses.cost(block.name, label):+.3f}"])
        time_ms = self.chosen.time * self.times.dense_ms
        title = f"{self.space.network}: {self.summary()} in {self.runtime}, {time_ms:.2f} ms"
        return TextTable(
            title,
            ["block", "C", "choice", "saves %", *([] if self.losses is None else ["cross-entropy"])],
            rows,
            [
                "Each choice alone in the dense network: its saved time"
                + ("." if self.losses is None else ", and the increase of the cross-entropy before fine-tuning.")
            ],
        )

    def front_table(self) -> TextTable:
        """Return the plans for several budgets."""
        rows: list[list[str]] = []
        for plan in self.front:
            numbers = [f"{plan.time:.3f}", f"{plan.time * self.times.dense_ms:.2f}", f"{1 / plan.time:.2f}"]
            row = [f"{plan.budget:.3f}", *numbers, *map(str, plan.count())]
            if plan.cross_entropy is not None and plan.accuracy_pct is not None:
                row += [f"{plan.cross_entropy:+.3f}", f"{plan.accuracy_pct:+.1f}"]
            rows.append(row)
        header = ["budget", "time", "ms", "speedup", "MoD", "skipped", "kept"]
        header += [] if self.losses is None else ["cross-entropy", "accuracy"]
        note = "Times are predicted."
        if self.losses is not None:
            note += " Cross-entropy and accuracy are measured before fine-tuning, as changes from the dense network's."
        return TextTable("Plans for several budgets", header, rows, [note])

    def summary(self) -> str:
        """Return the numbers of blocks and the time of the chosen plan in a few words."""
        return f"{self.chosen.counted()}; {self.chosen.time:.3f} of the dense time"


def _selects(choice: Choice) -> bool:
    return isinstance(choice, MoDConfig) and choice.select == "learned"


@dataclass(frozen=True)
class Front:
    """The content of `front.json`: the plans for several budgets."""

    plans: list[TunedPlan]

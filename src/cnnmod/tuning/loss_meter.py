"""LossMeter: measure combinations of choices on held-out images. Finished measurements are kept."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnmod.method.choices import SKIP
from cnnmod.method.convert import swap_
from cnnmod.method.copying import copied
from cnnmod.method.skip import Skip
from cnnmod.records.progress import Progress
from cnnmod.tuning.candidates import Batches, Candidates
from cnnmod.tuning.losses import Loss, LossTable, MeasuredLoss
from cnnmod.tuning.normalize import normalize_
from cnnmod.tuning.space import KEEP, Labels, Space

_CHECKS = 30  # random combinations, each with a pass over the held-out images
_NORMALIZE_IMAGES = 512  # training images for the statistics of the batch norms
_NORMALIZE_BATCH = 128  # the size of a batch, or up to twice as many


class LossMeter:
    """Measures combinations of choices.

    The statistics of the batch norms are measured again for each combination. In our experiment the cross-entropy then
    says more about the accuracy after fine-tuning.

    Attributes:
        table: All results so far.

    Args:
        model: The dense network, in evaluation mode. It is not changed.
        candidates: The trained MoD blocks.
        train: Training images for the statistics of batch norms.
        held_out: Held-out images with labels.
        network: A hash of the weights of the network.
        finished: The table of an interrupted measurement.
        save: Called with the table after each measurement.

    Raises:
        ValueError: If the finished table is of a network with other weights.
        FloatingPointError: If a cross-entropy is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        candidates: Candidates,
        train: Batches,
        held_out: Batches,
        network: str,
        *,
        finished: LossTable | None = None,
        save: Callable[[LossTable], None] = lambda table: None,
    ) -> None:
        if finished is not None and finished.network != network:
            raise ValueError("the losses were measured for other weights of the network; use a new folder")
        self.model, self.candidates, self.held_out, self.save = model, candidates, held_out, save
        self.images = _first_images(train, next(model.parameters()).device)
        if finished is None:
            normalized = copied(model)
            normalize_(normalized, self.images)
            finished = LossTable(network, self._evaluate(model, {}), self._evaluate(normalized, {}))
        self.table = finished

    def network(self, labels: Labels) -> nn.Module:
        """Return the network of a combination, before fine-tuning. The dense network keeps its statistics."""
        network = with_choices(self.model, self.candidates, labels)
        if any(label != KEEP for label in labels.values()):
            normalize_(network, self.images)
        return network

    def measure_choices(self, space: Space, progress: Progress = lambda description, done, total: None) -> None:
        """Measure each choice alone, and random combinations.

        Args:
            space: The blocks and their choices.
            progress: Called after each measurement.
        """
        combinations = [{block.name: label} for block in space.blocks for label in block.choices if label != KEEP]
        checks = space.random(_CHECKS, seed=1)
        total = len(combinations) + len(checks)
        for done, labels in enumerate(combinations, 1):
            ((name, label),) = labels.items()
            if label not in self.table.alone.get(name, {}):
                self.table.alone.setdefault(name, {})[label] = self._evaluate(self.network(labels), labels)
                self.save(self.table)
            progress("accuracy of each choice", done, total)
        for done, labels in enumerate(checks, 1):
            self._keep(self.table.checks, labels)
            progress("accuracy of each choice", len(combinations) + done, total)

    def measure_plan(self, labels: Labels) -> Loss:
        """Return the result of a plan."""
        return self._keep(self.table.plans, labels)

    def _keep(self, results: list[MeasuredLoss], labels: Labels) -> Loss:
        """Return the result of a combination. It is measured if it is not among the results."""
        for result in results:
            if result.labels == labels:
                return result.measured
        results.append(MeasuredLoss(dict(labels), self._evaluate(self.network(labels), labels)))
        self.save(self.table)
        return results[-1].measured

    def _evaluate(self, network: nn.Module, labels: Labels) -> Loss:
        device = next(network.parameters()).device
        loss, correct, count = 0.0, 0, 0
        with torch.inference_mode():
            for batch, classes in self.held_out:
                logits, classes = network(batch.to(device)).float(), classes.to(device)
                loss += float(nn.functional.cross_entropy(logits, classes, reduction="sum"))
                correct += int((logits.argmax(1) == classes).sum())
                count += len(classes)
        mean = torch.tensor(loss / max(1, count))
        if not mean.isfinite():
            changed = ", ".join(f"{name}: {label}" for name, label in labels.items() if label != KEEP)
            raise FloatingPointError(
                f"the cross-entropy on the held-out images is not finite ({changed or 'the dense network'})"
            )
        return Loss(float(mean), 100 * correct / max(1, count))


def _first_images(batches: Batches, device: torch.device) -> list[Tensor]:
    """Return the first images in batches of about equal size. The same random numbers are used each time."""
    drawn: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the order of a shuffled DataLoader
        for images, _ in batches:
            drawn.append(images.to(device))
            if sum(map(len, drawn)) >= _NORMALIZE_IMAGES:
                break
    images = torch.cat(drawn)[:_NORMALIZE_IMAGES]
    return list(images.tensor_split(max(1, len(images) // _NORMALIZE_BATCH)))


def with_choices(model: nn.Module, candidates: Candidates, labels: Labels) -> nn.Module:
    """Return a copy of a dense network with a combination of choices."""
    layers: dict[str, nn.Module] = {}
    for name, label in labels.items():
        if label != KEEP:
            layers[name] = Skip().eval() if label == SKIP else candidates.layers[name, label]
            layers |= {rest: nn.Identity().eval() for rest in candidates.blocks[name].rest}
    dense = swap_(model, layers)
    try:
        return copied(model)
    finally:
        swap_(model, dense)

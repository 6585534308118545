"""The metrics that compute the scores of a task, batch by batch and over all processes."""

from typing import Any, Protocol

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.detection import MeanAveragePrecision

from cnnmod.training.masks import IGNORED
from cnnmod.training.scores import Accuracy, AveragePrecision, Overlap, Score


class Metric(Protocol):
    """Accumulates the outputs of a network batch by batch, and computes the score over all processes.

    `compute` raises FloatingPointError if a logit is NaN, since `argmax` returns a class for NaN logits.
    """

    def update(self, outputs: Any, labels: Any) -> None: ...

    def compute(self, images: int, broken: int) -> Score:
        """Return the score of all updates, with the number of test images and of broken images."""
        ...


class ClassificationMetric:
    """Top-1 and top-5 accuracy of logits (N, classes)."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        top_ks = [top_k for top_k in (1, 5) if top_k == 1 or top_k < num_classes]
        self.num_classes = num_classes
        self._metrics = [MulticlassAccuracy(num_classes, top_k=top_k, average="micro").to(device) for top_k in top_ks]
        self._loss = MeanMetric(nan_strategy="ignore").to(device)  # `_has_nan` detects NaN
        self._present = torch.zeros(num_classes, dtype=torch.bool, device=device)
        self._has_nan = torch.zeros((), dtype=torch.bool, device=device)

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        if outputs.shape != (len(labels), self.num_classes):
            raise ValueError(f"the network has {outputs.shape[-1]} classes, the images have {self.num_classes}")
        self._has_nan |= outputs.isnan().any()
        self._present[labels] = True
        for metric in self._metrics:
            metric.update(outputs.float(), labels)
        self._loss.update(cross_entropy(outputs.float(), labels), len(labels))

    def compute(self, images: int, broken: int) -> Accuracy:
        _check_no_nan(self._has_nan)
        values = [round(100 * metric.compute().item(), 4) for metric in self._metrics]  # the precision of float32
        present = gather_object(self._present.nonzero().flatten().tolist())
        absent = sorted({*range(self.num_classes)} - {*present})
        top5, loss = values[1] if len(values) > 1 else None, round(self._loss.compute().item(), 5)
        return Accuracy(values[0], top5, images, broken, loss, absent)


class SegmentationMetric:
    """Overlap of predicted and true classes of pixels, from logits (N, classes, H, W) in `"out"`."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.num_classes = num_classes
        self._matrix = MulticlassConfusionMatrix(num_classes, ignore_index=IGNORED).to(device)
        self._has_nan = torch.zeros((), dtype=torch.bool, device=device)

    def update(self, outputs: dict[str, Tensor], labels: Tensor) -> None:
        logits = outputs["out"]
        if logits.shape[1] != self.num_classes:
            raise ValueError(f"the network has {logits.shape[1]} classes, the images have {self.num_classes}")
        self._has_nan |= logits.isnan().any()
        self._matrix.update(logits.argmax(1), labels)

    def compute(self, images: int, broken: int) -> Overlap:
        _check_no_nan(self._has_nan)
        matrix = self._matrix.compute().double()  # [true class][predicted class]
        correct, true, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
        iou, recall = 100 * correct / (true + predicted - correct), 100 * correct / true  # NaN for absent classes
        return Overlap(
            miou_pct=round(iou.nanmean().item(), 4),
            class_accuracy_pct=round(recall.nanmean().item(), 4),
            pixel_accuracy_pct=round((100 * correct.sum() / true.sum()).item(), 4),
            iou_pct=[None if value != value else round(value, 4) for value in iou.tolist()],
            images=images,
            broken=broken,
            absent_classes=(true == 0).nonzero().flatten().tolist(),
        )


class DetectionMetric:
    """Average precision of boxes, from one dictionary of boxes, labels and scores per image."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._predictions: list[dict[str, Tensor]] = []
        self._targets: list[dict[str, Tensor]] = []

    def update(self, outputs: list[dict[str, Tensor]], labels: list[dict[str, Tensor]]) -> None:
        self._predictions += [{name: value.cpu() for name, value in output.items()} for output in outputs]
        for label in labels:  # VOC ignores difficult objects in evaluation
            target = {"iscrowd": label["difficult"], **label}
            self._targets.append({name: value.cpu() for name, value in target.items()})

    def compute(self, images: int, broken: int) -> AveragePrecision:
        # torchmetrics can gather these only if all processes have the same number of images
        predictions, targets = gather_object(self._predictions), gather_object(self._targets)
        results: dict[str, Any] = {}
        for name, recalls in {"voc07": 11, "area": 1001, "coco": None}.items():
            thresholds = (
                {} if recalls is None else {"rec_thresholds": [step / (recalls - 1) for step in range(recalls)]}
            )
            overlaps = {} if recalls is None else {"iou_thresholds": [0.5], "class_metrics": name == "voc07"}
            metric = MeanAveragePrecision(sync_on_compute=False, **thresholds, **overlaps)
            metric.update(predictions, targets)
            results[name] = metric.compute()
        classes, values = (results["voc07"][key].flatten() for key in ("classes", "map_per_class"))
        class_ap = {
            label: None if value < 0 else _percent(value) for label, value in zip(classes.tolist(), values, strict=True)
        }
        counted = {label for image in targets for label in image["labels"][image["iscrowd"] == 0].tolist()}
        return AveragePrecision(
            ap50_voc07_pct=_percent(results["voc07"]["map_50"]),
            ap50_pct=_percent(results["area"]["map_50"]),
            coco_ap_pct=_percent(results["coco"]["map"]),
            class_ap50_pct=[class_ap.get(label) for label in range(1, self.num_classes)],
            images=images,
            broken=broken,
            absent_classes=sorted({*range(1, self.num_classes)} - counted),
        )


def _check_no_nan(has_nan: Tensor) -> None:
    if any(gather_object([bool(has_nan)])):
        raise FloatingPointError("the outputs of the network on the test images contain NaN")


def _percent(value: Tensor) -> float:
    return round(100 * max(0.0, value.item()), 4)  # torchmetrics returns −1 without a box

"""Scores of networks on test images, and the metrics that compute them."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.detection import MeanAveragePrecision

from cnnmod.training.scenes import IGNORED


class Score(ABC):
    """Base class of scores. The score of a task is a frozen dataclass of JSON values.

    Attributes:
        main: The field that selects checkpoints and compares networks.
        title: The title of this field in tables.
        unit: The unit of this field.
        counted: The unit that has a class: `"image"`, `"pixel"` or `"box"`. Empty for tasks without classes.
        images: The number of test images.
        broken: The number of images that could not be read and were skipped.
        absent_classes: The indices of the classes that do not occur in the test labels.
    """

    main: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str] = "%"
    counted: ClassVar[str] = ""
    images: int
    broken: int
    absent_classes: Any = ()  # list[int]

    @abstractmethod
    def summary(self) -> str:
        """Return the score as a short text."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        fields: Any = self
        return dataclasses.asdict(fields)

    @property
    def value(self) -> float:
        """The value of the `main` field."""
        return getattr(self, self.main)

    @property
    def rank(self) -> float:
        """The value to maximize when a checkpoint is selected. Override it if a lower value is better."""
        return self.value


@dataclass(frozen=True)
class Accuracy(Score):
    """The score of a classifier.

    Attributes:
        top1_pct: The percentage of images whose class has the highest logit.
        top5_pct: The percentage of images whose class is among the five highest logits. `None` with five classes or
            fewer.
        images: The number of test images.
        broken: The number of images that could not be read and were skipped.
        loss: The mean cross-entropy in nats. `None` in files of older versions.
        absent_classes: The indices of the classes without a test image.
    """

    top1_pct: float
    top5_pct: float | None
    images: int
    broken: int
    loss: float | None = None
    absent_classes: list[int] = field(default_factory=list)

    main, title, counted = "top1_pct", "top-1", "image"

    def summary(self) -> str:
        top5 = "" if self.top5_pct is None else f", top-5 {self.top5_pct:.2f} %"
        return f"top-1 {self.top1_pct:.2f} %{top5}"


@dataclass(frozen=True)
class Overlap(Score):
    """The score of a segmentation network, over the pixels of all images without the ignored ones.

    Attributes:
        miou_pct: The mean intersection over union (IoU) over classes, as in the paper.
        class_accuracy_pct: The mean over classes of the percentage of correct pixels.
        pixel_accuracy_pct: The percentage of correct pixels.
        iou_pct: The IoU of each class. `None` if the class is neither in the labels nor predicted.
        images: The number of test images.
        broken: The number of images that could not be read and were skipped.
        absent_classes: The indices of the classes without a test pixel.
    """

    miou_pct: float
    class_accuracy_pct: float
    pixel_accuracy_pct: float
    iou_pct: list[float | None]
    images: int
    broken: int
    absent_classes: list[int] = field(default_factory=list)

    main, title, counted = "miou_pct", "mIoU", "pixel"

    def summary(self) -> str:
        return (
            f"mIoU {self.miou_pct:.2f} %, pixel accuracy {self.pixel_accuracy_pct:.2f} %, mean class accuracy "
            f"{self.class_accuracy_pct:.2f} %"
        )


@dataclass(frozen=True)
class AveragePrecision(Score):
    """The score of a detector: the mean of the average precision (AP) over classes.

    Attributes:
        ap50_voc07_pct: AP at an IoU of 0.5: the mean precision at 11 recalls, as in VOC 2007 and the paper.
        ap50_pct: AP at an IoU of 0.5: the area under the curve, as in VOC since 2010.
        coco_ap_pct: AP as in COCO: the mean over IoUs from 0.5 to 0.95.
        class_ap50_pct: `ap50_voc07_pct` of each class, without the background. `None` if the class is not in the
            labels.
        images: The number of test images.
        broken: The number of images that could not be read and were skipped.
        absent_classes: The indices of the classes without a test box, without the background.
    """

    ap50_voc07_pct: float
    ap50_pct: float
    coco_ap_pct: float
    class_ap50_pct: list[float | None]
    images: int
    broken: int
    absent_classes: list[int] = field(default_factory=list)

    main, title, counted = "ap50_voc07_pct", "AP50", "box"

    def summary(self) -> str:
        return (
            f"AP50 {self.ap50_voc07_pct:.2f} % (VOC 2007's 11 points), {self.ap50_pct:.2f} % (area), "
            f"COCO's AP {self.coco_ap_pct:.2f} %"
        )


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
        class_ap = dict(
            zip(results["voc07"]["classes"].flatten().tolist(), _each(results["voc07"]["map_per_class"]), strict=True)
        )
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


def _each(values: Tensor) -> list[float | None]:
    return [None if value < 0 else _percent(value) for value in values.flatten()]


def _percent(value: Tensor) -> float:
    return round(100 * max(0.0, value.item()), 4)  # torchmetrics returns −1 without a box

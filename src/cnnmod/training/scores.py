"""What a network reaches on a task's test images, and how it is found."""

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
    """What a network reaches; a task's own is a frozen dataclass of JSON values, which files hold as they are.

    Attributes:
        main: The field by which checkpoints are chosen and networks compared.
        title: What tables call this field.
        unit: Of this field.
        counted: What has a class: `"image"`, `"pixel"` or `"box"`; empty where nothing has one.
        images: How many were tested.
        broken: How many could not be read, and were left out.
        absent_classes: The numbers of the classes that nothing tested is of.
    """

    main: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str] = "%"
    counted: ClassVar[str] = ""
    images: int
    broken: int
    absent_classes: Any = ()  # a list of numbers

    @abstractmethod
    def summary(self) -> str:
        """A few words for people."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        fields: Any = self
        return dataclasses.asdict(fields)

    @property
    def value(self) -> float:
        """The one number that networks are compared by."""
        return getattr(self, self.main)

    @property
    def rank(self) -> float:
        """The checkpoint with the highest is the best; override it where less is better."""
        return self.value


@dataclass(frozen=True)
class Accuracy(Score):
    """Of a classifier.

    Attributes:
        top1_pct: The share of images whose class has the highest logit.
        top5_pct: The share of images whose class is among the five highest; `None` with five classes or fewer.
        images: How many were tested.
        broken: How many could not be read, and were left out.
        loss: The mean cross-entropy in nats; `None` in files of older versions.
        absent_classes: The numbers of the classes that no test image is of.
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
    """Of a segmentation network, over the pixels of all images together, without those that are ignored.

    Attributes:
        miou_pct: The mean over classes of intersection over union, the paper's measure.
        class_accuracy_pct: The mean over classes of the share of their pixels that are found.
        pixel_accuracy_pct: The share of all pixels whose class is found.
        iou_pct: Of each class; `None` where it is neither there nor found.
        images: How many were tested.
        broken: How many could not be read, and were left out.
        absent_classes: The numbers of the classes that no test pixel is of.
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
class Precision(Score):
    """Of a detector: average precision, the mean over classes.

    Attributes:
        ap50_voc07_pct: At an overlap of 0.5, the mean of the precision at 11 recalls: VOC 2007's and the paper's.
        ap50_pct: At an overlap of 0.5, the area under the curve, which VOC counts since 2010.
        coco_ap_pct: COCO's, the mean over overlaps from 0.5 to 0.95.
        class_ap50_pct: `ap50_voc07_pct` of each class, without the background; `None` where it is not there.
        images: How many were tested.
        broken: How many could not be read, and were left out.
        absent_classes: The numbers of the classes that no test box is of, besides the background.
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
    """Takes a network's outputs batch by batch, in each process; what it computes is of all processes.

    Logits that are not numbers end in a `FloatingPointError`, for they have a highest one too.
    """

    def update(self, outputs: Any, labels: Any) -> None: ...

    def compute(self, images: int, broken: int) -> Score:
        """Of all that was given; `images` and `broken` are how many were tested and how many could not be read."""
        ...


class TopOfLogits:
    """Top-1 and top-5 of logits (N, classes)."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        tops = [top for top in (1, 5) if top == 1 or top < num_classes]
        self.num_classes = num_classes
        self._metrics = [MulticlassAccuracy(num_classes, top_k=top, average="micro").to(device) for top in tops]
        self._loss = MeanMetric(nan_strategy="ignore").to(device)  # `_nan` says that there are some
        self._there = torch.zeros(num_classes, dtype=torch.bool, device=device)
        self._nan = torch.zeros((), dtype=torch.bool, device=device)

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        if outputs.shape != (len(labels), self.num_classes):
            raise ValueError(f"the network has {outputs.shape[-1]} classes, the images have {self.num_classes}")
        self._nan |= outputs.isnan().any()
        self._there[labels] = True
        for metric in self._metrics:
            metric.update(outputs.float(), labels)
        self._loss.update(cross_entropy(outputs.float(), labels), len(labels))

    def compute(self, images: int, broken: int) -> Accuracy:
        _check_numbers(self._nan)
        values = [round(100 * metric.compute().item(), 4) for metric in self._metrics]  # float32 has no more
        there = gather_object(self._there.nonzero().flatten().tolist())
        absent = sorted({*range(self.num_classes)} - {*there})
        top5, loss = values[1] if len(values) > 1 else None, round(self._loss.compute().item(), 5)
        return Accuracy(values[0], top5, images, broken, loss, absent)


class OverlapOfPixels:
    """The overlap of predicted and true classes, logits (N, classes, H, W) in `"out"`."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.num_classes = num_classes
        self._matrix = MulticlassConfusionMatrix(num_classes, ignore_index=IGNORED).to(device)
        self._nan = torch.zeros((), dtype=torch.bool, device=device)

    def update(self, outputs: dict[str, Tensor], labels: Tensor) -> None:
        logits = outputs["out"]
        if logits.shape[1] != self.num_classes:
            raise ValueError(f"the network has {logits.shape[1]} classes, the images have {self.num_classes}")
        self._nan |= logits.isnan().any()
        self._matrix.update(logits.argmax(1), labels)

    def compute(self, images: int, broken: int) -> Overlap:
        _check_numbers(self._nan)
        matrix = self._matrix.compute().double()  # [true class][found class]
        hits, there, found = matrix.diag(), matrix.sum(1), matrix.sum(0)
        iou, recall = 100 * hits / (there + found - hits), 100 * hits / there  # 0 / 0 is not a number
        return Overlap(
            miou_pct=round(iou.nanmean().item(), 4),
            class_accuracy_pct=round(recall.nanmean().item(), 4),
            pixel_accuracy_pct=round((100 * hits.sum() / there.sum()).item(), 4),
            iou_pct=[None if value != value else round(value, 4) for value in iou.tolist()],
            images=images,
            broken=broken,
            absent_classes=(there == 0).nonzero().flatten().tolist(),
        )


class PrecisionOfBoxes:
    """Average precision of boxes, one dictionary of boxes, labels and scores an image."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._found: list[dict[str, Tensor]] = []
        self._there: list[dict[str, Tensor]] = []

    def update(self, outputs: list[dict[str, Tensor]], labels: list[dict[str, Tensor]]) -> None:
        self._found += [{name: value.cpu() for name, value in of_image.items()} for of_image in outputs]
        for of_image in labels:  # VOC does not count what is difficult
            crowd = {"iscrowd": of_image["difficult"], **of_image}
            self._there.append({name: value.cpu() for name, value in crowd.items()})

    def compute(self, images: int, broken: int) -> Precision:
        # torchmetrics' own way to gather these needs as many images in every process
        everything = gather_object(self._found), gather_object(self._there)
        found: dict[str, Any] = {}
        for name, recalls in {"voc07": 11, "area": 1001, "coco": None}.items():
            thresholds = (
                {} if recalls is None else {"rec_thresholds": [place / (recalls - 1) for place in range(recalls)]}
            )
            overlaps = {} if recalls is None else {"iou_thresholds": [0.5], "class_metrics": name == "voc07"}
            metric = MeanAveragePrecision(sync_on_compute=False, **thresholds, **overlaps)
            metric.update(*everything)
            found[name] = metric.compute()
        of_class = dict(
            zip(found["voc07"]["classes"].flatten().tolist(), _each(found["voc07"]["map_per_class"]), strict=True)
        )
        counted = {label for image in everything[1] for label in image["labels"][image["iscrowd"] == 0].tolist()}
        return Precision(
            ap50_voc07_pct=_percent(found["voc07"]["map_50"]),
            ap50_pct=_percent(found["area"]["map_50"]),
            coco_ap_pct=_percent(found["coco"]["map"]),
            class_ap50_pct=[of_class.get(label) for label in range(1, self.num_classes)],
            images=images,
            broken=broken,
            absent_classes=sorted({*range(1, self.num_classes)} - counted),
        )


def _check_numbers(nan: Tensor) -> None:
    if any(gather_object([bool(nan)])):
        raise FloatingPointError("the network's outputs on the test images are not all numbers (NaN)")


def _each(values: Tensor) -> list[float | None]:
    return [None if value < 0 else _percent(value) for value in values.flatten()]


def _percent(value: Tensor) -> float:
    return round(100 * max(0.0, value.item()), 4)  # −1: there is no such box

"""The score of a network on test images, for each task."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar


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

"""What a network says of an image, as values and as words."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Name = Callable[[int], str]  # a class → what it is called


class Prediction(ABC):
    """What a network says of one image."""

    @abstractmethod
    def values(self, name: Name) -> dict[str, Any]:
        """JSON values of it."""

    @abstractmethod
    def text(self, name: Name) -> str:
        """It in a few words."""


@dataclass(frozen=True)
class TopClasses(Prediction):
    """The classes with the highest probabilities, at most five, the highest first."""

    labels: list[int]
    probabilities: list[float]

    def values(self, name: Name) -> dict[str, Any]:
        return {"classes": dict(zip(map(name, self.labels), self.probabilities, strict=True))}

    def text(self, name: Name) -> str:
        shares = zip(self.labels, self.probabilities, strict=True)
        return ", ".join(f"{name(label)} {share:.1%}" for label, share in shares)


@dataclass(frozen=True)
class ClassMap(Prediction):
    """The class of every pixel of the image, (H, W)."""

    labels_HW: Tensor

    def values(self, name: Name) -> dict[str, Any]:
        counts = {name(label): int(count) for label, count in enumerate(self.labels_HW.flatten().bincount()) if count}
        return {"pixels": dict(sorted(counts.items(), key=lambda item: -item[1]))}

    def text(self, name: Name) -> str:
        pixels = self.values(name)["pixels"]
        return ", ".join(f"{label} {count / self.labels_HW.numel():.0%}" for label, count in pixels.items())


@dataclass(frozen=True)
class Boxes(Prediction):
    """Boxes (x1, y1, x2, y2) in the image's pixels, each with its class and score, the highest score first."""

    boxes: Tensor
    labels: list[int]
    scores: list[float]

    def values(self, name: Name) -> dict[str, Any]:
        boxes = [[round(side, 1) for side in box] for box in self.boxes.tolist()]
        parts = zip(map(name, self.labels), self.scores, boxes, strict=True)
        return {"boxes": [{"class": label, "score": score, "box": box} for label, score, box in parts]}

    def text(self, name: Name) -> str:
        names = [name(label) for label in self.labels]
        return ", ".join(f"{names.count(one)} {one}" for one in dict.fromkeys(names)) or "nothing"

"""Predictions of networks, as JSON values and as text."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Name = Callable[[int], str]  # class index → name


class Prediction(ABC):
    """Base class of the predictions for one image."""

    @abstractmethod
    def values(self, name: Name) -> dict[str, Any]:
        """Return the prediction as JSON values."""

    @abstractmethod
    def text(self, name: Name) -> str:
        """Return the prediction as a short text."""


@dataclass(frozen=True)
class TopClasses(Prediction):
    """The classes with the highest probabilities, at most five, in descending order."""

    labels: list[int]
    probabilities: list[float]

    def values(self, name: Name) -> dict[str, Any]:
        return {"classes": dict(zip(map(name, self.labels), self.probabilities, strict=True))}

    def text(self, name: Name) -> str:
        shares = zip(self.labels, self.probabilities, strict=True)
        return ", ".join(f"{name(label)} {share:.1%}" for label, share in shares)


@dataclass(frozen=True)
class ClassMap(Prediction):
    """The class of each pixel of the image, (H, W)."""

    labels_HW: Tensor

    def values(self, name: Name) -> dict[str, Any]:
        counts = {name(label): int(count) for label, count in enumerate(self.labels_HW.flatten().bincount()) if count}
        return {"pixels": dict(sorted(counts.items(), key=lambda item: -item[1]))}

    def text(self, name: Name) -> str:
        pixels = self.values(name)["pixels"]
        return ", ".join(f"{label} {count / self.labels_HW.numel():.0%}" for label, count in pixels.items())


@dataclass(frozen=True)
class Boxes(Prediction):
    """Boxes (x1, y1, x2, y2) in pixels of the image, with classes and scores, in descending order of scores."""

    boxes: Tensor
    labels: list[int]
    scores: list[float]

    def values(self, name: Name) -> dict[str, Any]:
        boxes = [[round(side, 1) for side in box] for box in self.boxes.tolist()]
        parts = zip(map(name, self.labels), self.scores, boxes, strict=True)
        return {"boxes": [{"class": label, "score": score, "box": box} for label, score, box in parts]}

    def text(self, name: Name) -> str:
        names = [name(label) for label in self.labels]
        return ", ".join(f"{names.count(label)} {label}" for label in dict.fromkeys(names)) or "nothing"

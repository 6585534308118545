"""The paper's published figures, network by network."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """What the paper reports of one network (tables 1, 2 and 5).

    Attributes:
        dataset: `"ImageNet"`, `"CIFAR-10"`, `"Cityscapes"` or `"VOC"`.
        baseline: The dense network that the paper compares it with; `None` for a dense one.
        accuracy_pct: Top-1; on Cityscapes mIoU, on VOC the average precision at an overlap of 0.5 (11 points).
        gmacs_ptflops: By ptflops, which adds norms, activations and pooling to convolutions and linear layers.
        parameters_m: Millions.
        cpu_ms, gpu_ms: On the paper's laptop, batch size and threads not stated.
    """

    dataset: str
    baseline: str | None
    accuracy_pct: float
    gmacs_ptflops: float
    parameters_m: float
    cpu_ms: float
    gpu_ms: float

    @property
    def pixels(self) -> str:
        """Of the images that `gmacs_ptflops` and the times are for."""
        return {"ImageNet": "224 × 224", "CIFAR-10": "32 × 32", "Cityscapes": "512 × 1024"}.get(
            self.dataset, "600 × 1000"
        )

    @property
    def measure(self) -> str:
        """What `accuracy_pct` is."""
        return {"Cityscapes": "mIoU", "VOC": "AP50"}.get(self.dataset, "top-1")


@cache
def paper_rows() -> dict[str, PaperRow]:
    """The paper's networks by the names under which `build` has them.

    Examples:
        >>> paper_rows()["resnet75_mod"].baseline
        'resnet50'
    """
    file = resources.files("cnnmod.networks") / "paper.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return {name: PaperRow(**values) for name, values in rows.items()}

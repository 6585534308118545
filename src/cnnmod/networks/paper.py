"""The paper's published figures for each network."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """The paper's figures for one network (tables 1, 2 and 5).

    Attributes:
        dataset: `"ImageNet"`, `"CIFAR-10"`, `"Cityscapes"` or `"VOC"`.
        baseline: The dense network that the paper compares the network with; `None` for a dense network.
        accuracy_pct: The top-1 accuracy; the mIoU for Cityscapes; the average precision at an IoU of 0.5 (11 points)
            for VOC.
        gmacs_ptflops: The GMACs counted by ptflops, which also counts norms, activations and pooling.
        parameters_m: The number of parameters in millions.
        cpu_ms, gpu_ms: The latency on the paper's laptop. The paper does not state batch size and threads.
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
        """The image size for `gmacs_ptflops` and the latencies."""
        return {"ImageNet": "224 × 224", "CIFAR-10": "32 × 32", "Cityscapes": "512 × 1024"}.get(
            self.dataset, "600 × 1000"
        )

    @property
    def measure(self) -> str:
        """The name of the measure in `accuracy_pct`."""
        return {"Cityscapes": "mIoU", "VOC": "AP50"}.get(self.dataset, "top-1")


@cache
def paper_rows() -> dict[str, PaperRow]:
    """Return the paper's figures for each network, by the network's name in `build`.

    Examples:
        >>> paper_rows()["resnet75_mod"].baseline
        'resnet50'
    """
    file = resources.files("cnnmod.networks") / "paper.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return {name: PaperRow(**values) for name, values in rows.items()}

"""Eager PyTorch on a GPU: ResNet50, ResNet75-MoD and its control, in float32 and bfloat16, channels last.

python benchmarks/eager_gpu.py    # writes results/resnet75_mod-eager_gpu-DTYPE.json
"""

import sys
from pathlib import Path

import torch

from cnnmod import compare
from cnnmod.measure.results import write_result
from cnnmod.networks import build
from cnnmod.records.files import check_writable
from cnnmod.report.progress import progress_bars
from cnnmod.report.table import comparison_cells

NETWORKS = ("resnet50", "resnet75_mod")
DTYPES = (torch.float32, torch.bfloat16)
BATCHES = (1, 8, 64)
ROUNDS = 100
SIZE = 224


def main(device: str = "cuda", out: Path = Path(__file__).parent / "results") -> None:
    """Measure, and write the files."""
    for dtype in DTYPES:
        path = out / f"{NETWORKS[-1]}-eager_gpu-{str(dtype).removeprefix('torch.')}.json"
        check_writable(path)
        with progress_bars() as bars:
            comparison = compare(
                {name: build(name).to(device, dtype) for name in NETWORKS},
                torch.rand(1, 3, SIZE, SIZE, device=device, dtype=dtype),
                batch_sizes=BATCHES,
                channels_last=True,
                rounds=ROUNDS,
                progress=bars,
            )
        write_result(comparison, path)
        print(comparison_cells(comparison).markdown())


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU here")
    main()

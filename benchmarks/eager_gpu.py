"""Time ResNet50, ResNet75-MoD and its control in eager PyTorch on a GPU, in float32 and bfloat16, channels last.

The MoD blocks are measured with CUDA kernels and with several operators.

    python benchmarks/eager_gpu.py    # writes results/resnet75_mod-eager_gpu-DTYPE.json and …-DTYPE-operators.json
"""

import itertools
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch

from cnnmod import compare
from cnnmod.deploy.cuda.form import CudaForm
from cnnmod.measure.results import write_result
from cnnmod.networks import build
from cnnmod.records.files import check_writable
from cnnmod.report.progress import progress_bars
from cnnmod.report.table import comparison_cells

NETWORKS = ("resnet50", "resnet75_mod")
DTYPES = (torch.float32, torch.bfloat16)
BATCHES = (1, 8, 64)
ROUNDS = 50
SIZE = 224


def main(device: str = "cuda", out: Path = Path(__file__).parent / "results") -> None:
    """Measure, and write the result files."""
    for dtype, kernels in itertools.product(DTYPES, (True, False)):
        name = f"{NETWORKS[-1]}-eager_gpu-{str(dtype).removeprefix('torch.')}"
        path = out / f"{name if kernels else f'{name}-operators'}.json"
        check_writable(path)
        operators = patch.object(CudaForm, "accepts", lambda block: False)
        with progress_bars() as bars, nullcontext() if kernels else operators:
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
        sys.exit("torch found no GPU")
    main()

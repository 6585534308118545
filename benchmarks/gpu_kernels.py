"""Time each CUDA kernel of the MoD blocks of ResNet75-MoD: bfloat16, channels last, 224 × 224 pixels, torch's profiler.

python benchmarks/gpu_kernels.py    # writes results/gpu-kernels.json; takes about 20 s
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
import tyro
from torch.profiler import ProfilerActivity, profile

from cnnmod import MoDConfig
from cnnmod.deploy.start import start
from cnnmod.networks import build_mod
from cnnmod.records.files import write_whole
from cnnmod.records.provenance import Provenance

KERNELS = ("mod_block", "pool", "select_channels", "tiles", "add_result")
FORMS = {"candidates=4": MoDConfig(candidates=4), "": MoDConfig()}
PASSES = 3


def kernels_of(config: MoDConfig, batch: int) -> list[tuple[str, float]]:
    """Return the names and durations in µs of the kernels of one pass, in order."""
    model = build_mod("resnet75_mod", config).eval().to("cuda", torch.bfloat16)
    images = torch.rand(batch, 3, 224, 224, device="cuda", dtype=torch.bfloat16)
    run = start(model, "eager", images, channels_last=True)
    for _ in range(PASSES):
        run(images)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(PASSES):
            run(images)
        torch.cuda.synchronize()
    found = [(event.name, event.device_time) for event in profiled.events() or () if event.name in KERNELS]
    if not found:
        raise RuntimeError("the MoD blocks did not run in the CUDA kernels")
    return [(name, round(us, 1)) for name, us in found[-(len(found) // PASSES) :]]


def main(batch: tuple[int, ...] = (1, 64, 256), out: Path = Path(__file__).parent / "results") -> None:
    """Time the kernels of both forms with each batch size."""
    rows = [
        {"form": form, "batch": size, "kernels": kernels_of(config, size)}
        for form, config in FORMS.items()
        for size in batch
    ]
    content = {
        "schema": "cnnmod.gpu_kernels/1",
        "rows": rows,
        "provenance": asdict(Provenance.now(torch.device("cuda"), torch.get_num_threads())),
    }
    write_whole(out / "gpu-kernels.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

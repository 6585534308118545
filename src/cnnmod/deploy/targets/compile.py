"""The target `compile`: torch.compile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.cuda.form import CudaForm
from cnnmod.deploy.fused import FusedForm
from cnnmod.deploy.outputs import copied
from cnnmod.deploy.targets.eager import InTorch
from cnnmod.deploy.targets.target import Target


class CompileTarget(Target):
    """torch.compile for one image shape: with its default settings on a CPU, with CUDA graphs on a GPU."""

    name = "compile"
    forms = (CudaForm, FusedForm)
    in_torch = True

    def counts_memory(self, device: torch.device) -> bool:
        """See `Target.counts_memory`. On a GPU, the network runs as a CUDA graph."""
        return device.type == "cpu"

    def start(self, lowered: nn.Module, example: Tensor, precision: str) -> Callable[[Tensor], Any]:
        """Compile the network on the example."""
        mode = mode_for(example.device)
        compiled = torch.compile(lowered, dynamic=False, mode=mode)
        run = InTorch(compiled) if mode is None else Replayed(compiled)
        with torch._dynamo.config.patch(recompile_limit=1000):  # per class; torch runs eagerly beyond the limit
            for _ in range(1 if mode is None else 3):  # torch captures the graph in the second call
                run(example)
        return run


class Replayed(InTorch):
    """A compiled network that torch may replay as a CUDA graph. It returns copies, since a replay overwrites them."""

    def __call__(self, images_NCHW: Tensor) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode():
            return copied(self.module(images_NCHW))


def mode_for(device: torch.device) -> str | None:
    """Return the mode of torch.compile for a device.

    `"reduce-overhead"` uses CUDA graphs. `"max-autotune"` also tries many kernels for each convolution, which takes
    minutes for each network.
    """
    return "reduce-overhead" if device.type == "cuda" else None

"""The target `compile`: torch.compile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.cuda.form import CudaForm
from cnnmod.deploy.fused import FusedForm
from cnnmod.deploy.targets.eager import InTorch
from cnnmod.deploy.targets.target import Target


class CompileTarget(Target):
    """torch.compile with its default settings, for one image shape."""

    name = "compile"
    forms = (CudaForm, FusedForm)
    in_torch = True

    def start(self, lowered: nn.Module, example: Tensor, precision: str) -> Callable[[Tensor], Any]:
        """Compile the network on the example."""
        compiled = InTorch(torch.compile(lowered, dynamic=False))
        with torch._dynamo.config.patch(recompile_limit=1000):  # per class; torch runs eagerly beyond the limit
            compiled(example)
        return compiled

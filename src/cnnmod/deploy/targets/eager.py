"""The target `eager`: PyTorch without a compiler."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.cuda.form import CudaForm
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.fused import FusedForm
from cnnmod.deploy.in_place import allow_overwriting_
from cnnmod.deploy.narrow_form import NarrowForm
from cnnmod.deploy.targets.target import Target


class EagerTarget(Target):
    """Eager PyTorch."""

    name = "eager"
    forms = (CudaForm, FusedForm, NarrowForm, EagerForm)
    in_torch = True

    def finish_(self, lowered: nn.Module) -> None:
        """Let MoD blocks overwrite their input if nothing else reads it."""
        allow_overwriting_(lowered)

    def start(self, lowered: nn.Module, example: Tensor, precision: str) -> Callable[[Tensor], Any]:
        """Return the network, called without gradients."""
        return InTorch(lowered)


class InTorch:
    """A module that is called without gradients."""

    def __init__(self, module: Callable[[Tensor], Any]) -> None:
        self.module = module

    def __call__(self, images_NCHW: Tensor) -> Any:
        with torch.inference_mode():
            return self.module(images_NCHW)

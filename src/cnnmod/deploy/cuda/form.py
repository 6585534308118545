"""The form of a MoD block for a GPU."""

import functools
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from cnnmod.deploy.cuda.block import Block, mod_block_
from cnnmod.deploy.cuda.fallback import mod_block_by_operators_
from cnnmod.deploy.cuda.kernels import ELEMENTS, CudaError, limits
from cnnmod.deploy.cuda.plan import MOST_STEPS, Plan
from cnnmod.deploy.forms import Form, Handles
from cnnmod.deploy.operator import library
from cnnmod.deploy.operator_form import OperatorForm
from cnnmod.deploy.program import CONVOLUTION, STEP_NUMBERS, read_program
from cnnmod.method.blocks import MoDBlock
from cnnmod.records.errors import first_line

logger = logging.getLogger("cnnmod")
library.impl("mod_block_", mod_block_, "CUDA")


class CudaForm(OperatorForm):
    """The MoD block as one operator on a GPU, in float32, float16 and bfloat16.

    The operator launches one to four kernels, or torch's operators if a row of the images needs more shared memory than
    the GPU has. `plan` tells which.
    """

    handles: ClassVar[Handles] = {**Form.handles, "select": ("learned",)}
    device_type = "cuda"

    @classmethod
    def accepts(cls, block: MoDBlock) -> bool:
        """See `Form.accepts`. The block must be on a GPU that runs the kernels."""
        if not super().accepts(block):
            return False
        return len(read_program(block.conv_block, block.k).steps) <= MOST_STEPS * STEP_NUMBERS

    @classmethod
    def runs_on(cls, device: torch.device) -> bool:
        """Return whether the kernels run on the GPU. The first call compiles them and computes an example."""
        return has_kernels(device)

    def fits(self, x_NCHW: Tensor, arguments: Sequence[Any]) -> bool:
        """Return whether the kernels support the images. They must have the data type of all weights."""
        return (
            x_NCHW.dtype in ELEMENTS
            and all(value.dtype == x_NCHW.dtype for value in Block(*arguments).tensors)
            and x_NCHW.size(1) * x_NCHW.size(2) * x_NCHW.size(3) < 2**31  # indices within an image have 32 bits
        )

    def plan(self, x_NCHW: Tensor) -> Plan | None:
        """Return the kernels that compute these images, or `None` if several operators do."""
        arguments = self._arguments_for(x_NCHW, (), {})
        return None if arguments is None else Block(*arguments).plan(x_NCHW, limits(x_NCHW.device))


@functools.cache
def has_kernels(device: torch.device) -> bool:
    """Return whether the kernels run on a GPU and compute an example correctly. Log a warning if not."""
    try:
        for dtype in ELEMENTS:
            _compute_example(device, dtype)
            for candidates in (32, 512):  # ranked at once; found bit by bit before they are ranked
                _compare_with_operators(device, dtype, candidates)
    except (ImportError, OSError, RuntimeError) as error:  # `ImportError`: older versions of torch lack cuda-bindings
        message = "the CUDA kernels do not run on %s (%s); MoD blocks run as several operators"
        logger.warning(message, device, first_line(error))
        return False
    return True


def _compute_example(device: torch.device, dtype: torch.dtype) -> None:
    """Select the second of three channels and halve it. Raise an error if the result is wrong."""
    x_NCHW = torch.arange(24, device=device).view(2, 3, 2, 2).to(dtype) / 8
    expected_NCHW, mean_NC = x_NCHW.clone(), x_NCHW.float().mean((2, 3))
    score_N11 = (mean_NC.sum(1) / 4).sigmoid()[:, None, None]
    expected_NCHW[:, 0] += (score_N11 * x_NCHW[:, 1].float() / 2).to(dtype)
    reduce, expand = x_NCHW.new_ones(1, 3), x_NCHW.new_tensor([[0.0], [0.25], [-1.0]])
    weight, no_bias = x_NCHW.new_full((1, 1, 1, 1), 0.5), x_NCHW.new_empty(0)
    program = [CONVOLUTION, 1, 0, 0, 0, 1, 1]
    mod_block_(x_NCHW, reduce, expand, None, [weight], [no_bias], program, 2, 1, False, 0)
    if not torch.allclose(x_NCHW.float(), expected_NCHW.float(), rtol=2 * torch.finfo(dtype).eps, atol=1e-6):
        raise CudaError(f"the kernel computes a wrong result in {dtype}")


def _compare_with_operators(device: torch.device, dtype: torch.dtype, candidates: int) -> None:
    """Compute random images with the kernels and with torch's operators. Raise an error if the results differ.

    The operators run on the CPU, where no autocast for GPUs applies. All values and means are small integers, so that
    both select the same channels in every precision.
    """
    generator, k, hidden = torch.Generator().manual_seed(0), 8, 16

    def integers(*shape: int) -> Tensor:
        return torch.randint(-1, 2, shape, generator=generator).to(dtype)

    noise_NCHW = integers(3, 512, 16, 8)
    expected_NCHW = integers(3, 512, 1, 1) + torch.cat([noise_NCHW, -noise_NCHW], dim=3)
    x_NCHW = expected_NCHW.to(device, memory_format=torch.channels_last, copy=True)
    weights = (integers(hidden, candidates), integers(candidates, hidden), integers(k, k, 3, 3), integers(0))
    program = [CONVOLUTION, 1, 0, 0, 1, 1, 1]
    for images_NCHW, compute in ((x_NCHW, mod_block_), (expected_NCHW, mod_block_by_operators_)):
        reduce, expand, weight, no_bias = (value.to(images_NCHW.device) for value in weights)
        compute(images_NCHW, reduce, expand, None, [weight], [no_bias], program, 2, k, False, 0)
    if not torch.allclose(x_NCHW.cpu().float(), expected_NCHW.float(), rtol=2 * torch.finfo(dtype).eps, atol=1e-4):
        raise CudaError(f"the kernel computes a wrong result with {candidates} candidates in {dtype}")

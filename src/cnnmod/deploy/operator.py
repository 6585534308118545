"""The operator `cnnmod::mod_block_`: a MoD block in place. `fused.py` implements it for CPUs, `cuda/` for GPUs.

The Conv-Block is a program over registers. A register holds planes (channels, height · width). Register 0 is the input,
and the target of the last step is the output. A step is seven numbers:

    convolution: 0, target, source, index of the weight, padding, dilation, groups
    relu:        1, target, source
    sum:         2, target, source, source
    relu6:       3, target, source
"""

from typing import Any

import torch
from torch import Tensor

library = torch.library.Library("cnnmod", "FRAGMENT")
library.define(
    "mod_block_(Tensor(a!) x, Tensor reduce, Tensor expand, Tensor? gain, Tensor[] weights, Tensor[] biases, "
    "int[] program, int registers, int k, bool by_index, int start) -> ()"
)


def _fake_mod_block_(x_NCHW: Tensor, *args: Any) -> None:
    if any(isinstance(value, Tensor) and value.device != x_NCHW.device for value in args):
        raise RuntimeError(f"mod_block_: images are on {x_NCHW.device}, but a weight is not")


torch.library.register_fake("cnnmod::mod_block_", _fake_mod_block_, lib=library)

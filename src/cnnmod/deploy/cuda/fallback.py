"""The operator `mod_block_` made of torch's operators, for images whose rows do not fit into shared memory."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

from cnnmod.deploy.program import CONVOLUTION, RELU, STEP_NUMBERS, SUM
from cnnmod.method.functional import select_channels


def mod_block_by_operators_(
    x_NCHW: Tensor,
    reduce: Tensor,
    expand: Tensor,
    gain: Tensor | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    program: Sequence[int],
    registers: int,
    k: int,
    by_index: bool,
    start: int,
) -> None:
    """Compute a MoD block in place. See `operator.py` for the arguments."""
    mean_NC = x_NCHW[:, : reduce.size(1)].mean((2, 3), dtype=torch.float32)
    logit_NC = linear(linear(mean_NC, reduce.float()).relu_(), expand.float())
    score_NK, index_NK = select_channels(logit_NC, k, order="index" if by_index else "score")
    score_NK = score_NK if gain is None else score_NK * gain.float()
    index_NKHW = index_NK[:, :, None, None].expand(-1, -1, *x_NCHW.shape[2:])
    planes = {0: x_NCHW.gather(1, index_NKHW).float()}  # computed in float32, as by the kernels
    for at in range(0, len(program), STEP_NUMBERS):
        operation, target, source, *numbers = program[at : at + STEP_NUMBERS]
        value = planes[source]
        if operation == CONVOLUTION:
            layer, padding, dilation, groups = numbers
            bias = biases[layer].float() if biases[layer].numel() else None
            planes[target] = conv2d(value, weights[layer].float(), bias, 1, padding, dilation, groups)
        elif operation == SUM:
            planes[target] = value + planes[numbers[0]]
        else:
            planes[target] = value.relu() if operation == RELU else value.clamp(0, 6)
    y_NKHW = planes[program[-STEP_NUMBERS + 1]] * score_NK[:, :, None, None]
    target_NKHW = x_NCHW.gather(1, index_NKHW) if start < 0 else x_NCHW.narrow(1, start, k)
    sum_NKHW = (target_NKHW.float() + y_NKHW).to(x_NCHW.dtype)
    if start < 0:
        x_NCHW.scatter_(1, index_NKHW, sum_NKHW)
    else:
        target_NKHW.copy_(sum_NKHW)

"""MoD blocks and their forms, which must compute the same."""

import copy

import torch
from torch import nn

from cnnmod import MoDBlock, MoDConfig


def conv_block(k, out=None):
    last = nn.Conv2d(8, k if out is None else out, 1, bias=False)
    return nn.Sequential(nn.Conv2d(k, 8, 1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1), last)


def pair(form, config=MoDConfig(reduction=2), channels=64, k=6, inner=conv_block):
    """Return a MoD block and its form."""
    block = MoDBlock(inner(k), channels, k, config).eval().requires_grad_(False)
    if block.gain_K is not None:
        block.gain_K.uniform_(0.5, 2)
    return block, form(copy.deepcopy(block)).eval().requires_grad_(False)


def check(block, made, x_NCHW, *args, tolerance=1e-5):
    """Check that both compute the same. The block is called first, since the form may overwrite its input."""
    with torch.inference_mode():
        expected = block(x_NCHW, *args)
        torch.testing.assert_close(made(x_NCHW, *args), expected, atol=tolerance, rtol=tolerance)


class Ends(nn.Module):
    """A convolution followed by a function of its output and its input."""

    def __init__(self, end):
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.end = end

    def forward(self, x):
        return self.end(self.conv(x), x)

import copy

import pytest
import torch
from torch import nn

from cnnmod import MoDBlock
from cnnmod.deploy.cuda.form import CudaForm
from cnnmod.deploy.fused import FusedForm


@pytest.mark.parametrize("form", [FusedForm, CudaForm])
def test_another_device_uses_several_operators(form):
    """The meta device has neither the operator nor autocast, and only shapes are computed there."""
    block = MoDBlock(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1)), 64, 6).eval().requires_grad_(False)
    on_meta = copy.deepcopy(form(block).eval()).to("meta")
    with torch.inference_mode():
        assert on_meta(torch.empty(2, 64, 5, 5, device="meta")).shape == (2, 64, 5, 5)


@pytest.mark.parametrize("form", [FusedForm, CudaForm])
def test_a_block_on_another_device_is_not_accepted(form):
    block = MoDBlock(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1)), 64, 6, device=torch.device("meta"))
    assert not form.accepts(block)

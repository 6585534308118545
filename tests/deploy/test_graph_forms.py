import copy

import pytest
import torch
from torch import nn

from cnnmod import MoDBlock, MoDConfig
from cnnmod.deploy.graph_forms import GraphForm, OnnxForm
from form_pairs import check, pair


@pytest.mark.parametrize("form", [GraphForm, OnnxForm])
def test_nhwc_layout_equals_the_training_form(form):
    class Last(nn.Conv2d):
        def forward(self, x_NHWK):
            return super().forward(x_NHWK.movedim(3, 1)).movedim(1, 3)

    block = MoDBlock(Last(6, 6, (3, 1), padding=(1, 0)), 64, 6, layout="NHWC").eval().requires_grad_(False)
    check(block, form(copy.deepcopy(block)), torch.randn(2, 5, 7, 64))


def test_graph_form_of_a_block_without_parameters():
    block = MoDBlock(nn.AvgPool2d(3, 1, 1), 64, 6, MoDConfig(select="random")).eval()
    check(block, GraphForm(copy.deepcopy(block)).eval(), torch.randn(2, 64, 5, 5))


def test_fusion_is_a_constant_convolution():
    for fuse_to, start in (("first", 0), ("last", 58)):
        spread_CK = pair(GraphForm, MoDConfig(fuse_to=fuse_to))[1].spread_CK11[:, :, 0, 0]
        assert torch.equal(spread_CK[start : start + 6], torch.eye(6))
        assert spread_CK.sum() == 6


@pytest.mark.parametrize("form", [GraphForm, OnnxForm])
@pytest.mark.parametrize("order", ["score", "index"])
def test_input_is_unchanged_and_any_batch_size_is_accepted(form, order):
    block, made = pair(form, MoDConfig(reduction=2, order=order))
    x_NCHW = torch.randn(3, 64, 5, 5)
    before = x_NCHW.clone()
    made(x_NCHW)
    assert torch.equal(x_NCHW, before)
    program = torch.export.export(made, (x_NCHW,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for images in (2, 7):
        check(block, program, torch.randn(images, 64, 5, 5))

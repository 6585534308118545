"""A training step of a MoD block and of a converted network: its operators, torch.compile and autocast."""

import copy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from cnnmod import MoDBlock, MoDConfig, convert_
from small import tiny_network

FORMS = {
    "the paper's": {},
    "candidates": {"candidates": 2},
    "first": {"select": "first"},
    "all": {"scale": "input", "fuse_to": "all"},
    "original": {"fuse_to": "original", "order": "index", "identity_start": True},
}
SLOW_BACKWARDS = ("index_put", "index_backward", "IndexBackward", "nonzero", "sort")
every_form = pytest.mark.parametrize("fields", FORMS.values(), ids=FORMS)


@every_form
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_backward_has_no_index_put(fields, memory_format):
    """On a GPU, index_put sorts the indices of all pixels, and takes longer than the rest of the block."""
    outputs = 32 if fields.get("fuse_to") == "all" else 4
    conv_block = nn.Sequential(nn.Conv2d(4, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())
    block = MoDBlock(conv_block, 32, 4, MoDConfig(**fields)).to(memory_format=memory_format)
    x_NCHW = torch.randn(2, 32, 5, 5).contiguous(memory_format=memory_format).requires_grad_()
    loss = block(x_NCHW).square().sum()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        loss.backward()
    names = {event.key for event in profiler.key_averages()}
    assert any("convolution_backward" in name for name in names)
    assert not [name for name in names if any(slow in name for slow in SLOW_BACKWARDS)]
    assert x_NCHW.grad is not None
    assert x_NCHW.grad.is_contiguous(memory_format=memory_format)


@every_form
@pytest.mark.parametrize("precision", [torch.bfloat16, pytest.param(None, marks=pytest.mark.slow)], ids=str)
def test_compiled_step_is_one_graph_and_equals_eager(fields, precision):
    """`fullgraph` raises an error for a graph break. Three steps compile forward and backward once."""
    model = convert_(tiny_network(), MoDConfig(c=4, **fields), example=torch.rand(1, 1, 8, 8)).train()
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    losses = []
    for compiles in (False, True):
        network = copy.deepcopy(model)
        forward = torch.compile(network, fullgraph=True, backend="aot_eager") if compiles else network
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        graphs, losses_of_steps = torch._dynamo.utils.counters["stats"]["unique_graphs"], []
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
                loss = nn.functional.cross_entropy(forward(images).float(), labels)
            loss.backward()
            optimizer.step()
            losses_of_steps.append(loss.item())
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + compiles
        assert all(parameter.grad is not None for parameter in network.parameters())
        losses.append(losses_of_steps)
    assert losses[0][2] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5 if precision is None else 0.02)

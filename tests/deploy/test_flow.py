from types import SimpleNamespace

import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import nn
from torch.nn.utils import prune
from torch.utils._pytree import tree_leaves

from cnnmod import MoDConfig, convert_, lower, mod_blocks
from cnnmod.deploy.flow import trace_flow
from cnnmod.networks import build
from conftest import trained_norms_


def test_resnet():
    flow = trace_flow(build("resnet18_mod"))
    assert flow.conv_norms["conv1"] == "bn1"
    assert flow.conv_norms["layer1.1.conv_block.conv2"] == "layer1.1.conv_block.bn2"
    assert len(flow.conv_norms) == 20
    assert flow.overwritable == {"layer1.1", "layer2.1", "layer3.1", "layer4.1"}


class Net(nn.Module):
    """A standard block and one that becomes a MoD block, between which something is done with the tensor."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 16))

    def forward(self, x):
        return self.between(self.blocks[0](x + 0))

    def between(self, y):
        return self.blocks[1](y)


class ReadEarly(Net):
    def between(self, y):
        return y * 2 + self.blocks[1](y)


class ReadLate(Net):
    def between(self, y):
        return self.blocks[1](y) + y * 2


class ReadThroughView(Net):
    def between(self, y):
        view = y.flatten(2)
        z = self.blocks[1](y)
        return z + view.view_as(z)


class ReadAsPart(Net):
    def forward(self, x):
        both = torch.cat([self.blocks[0](x), x], 1)
        first, _ = both.chunk(2, 1)
        return self.blocks[1](first) + both[:, :16]


class Returned(Net):
    def between(self, y):
        return self.blocks[1](y), y


class ReturnedInAnObject(Net):
    def between(self, y):
        return SimpleNamespace(result=self.blocks[1](y), feature=y)


class KeptAside(Net):
    def between(self, y):
        self.feature = y
        return self.blocks[1](y)


class OnTheImage(Net):
    in_a_row = True  # while it is converted

    def forward(self, x):
        return self.blocks[1](self.blocks[0](x)) if self.in_a_row else self.blocks[0](x) + self.blocks[1](x)


def results(output, model):
    if isinstance(output, SimpleNamespace):
        output = (output.result, output.feature)
    output = output if isinstance(output, tuple) else (output,)
    return [*output, model.feature] if isinstance(model, KeptAside) else [*output]


NETS = [Net, ReadEarly, ReadLate, ReadThroughView, ReadAsPart, Returned, ReturnedInAnObject, KeptAside, OnTheImage]


@pytest.mark.parametrize("net", NETS)
def test_only_what_nobody_reads_again_is_overwritten(net):
    x_NCHW = torch.rand(2, 16, 8, 8)
    model = trained_norms_(convert_(net(), MoDConfig(c=4), example=x_NCHW))
    model.in_a_row = False
    flow = trace_flow(model, x_NCHW)
    assert flow.overwritable == ({"blocks.1"} if net in (Net, ReadEarly) else set())
    assert not hasattr(model, "feature")
    lowered, before = lower(model, example=x_NCHW), x_NCHW.clone()
    with torch.inference_mode():
        for ours, theirs in zip(results(lowered(x_NCHW), lowered), results(model(x_NCHW), model), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert torch.equal(x_NCHW, before)
    assert list(mod_blocks(lowered)) == ["blocks.1"]


class ReadsConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.blocks = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), Net().blocks

    def forward(self, x):
        y = self.conv(x)
        return self.blocks(self.norm(y) + y)


def test_a_convolution_whose_output_is_read_twice_is_not_folded():
    assert "conv" not in trace_flow(ReadsConvolution(), torch.rand(1, 3, 8, 8)).conv_norms


def test_pruned_convolutions_are_not_folded():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    prune.l1_unstructured(model[0], "weight", 0.5)
    x_NCHW = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        model(x_NCHW)
        torch.testing.assert_close(lower(model, example=x_NCHW)(x_NCHW), model(x_NCHW))


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("layer", ["blocks.0", "blocks.1", "blocks.1.conv_block.conv1", "everywhere"])
def test_what_a_hook_sees_is_not_overwritten(register, layer):
    """Hooks are not called when the network is traced; they may keep what they see."""
    x_NCHW, seen = torch.rand(2, 16, 8, 8), []
    model = trained_norms_(convert_(Net(), MoDConfig(c=4), example=x_NCHW))
    if layer == "everywhere":
        add = getattr(nn.modules.module, register.replace("forward", "module_forward"))
    else:
        add = getattr(model.get_submodule(layer), register)
    handle = add(
        lambda _, *given: seen.extend(value for value in tree_leaves(given) if isinstance(value, torch.Tensor))
    )
    try:
        flow = trace_flow(model, x_NCHW)
        lowered = lower(model, example=x_NCHW)
        assert not seen
        assert flow.overwritable == ({"blocks.1"} if layer == "blocks.1.conv_block.conv1" else set())
        if layer == "everywhere":
            return
        with torch.inference_mode():
            model(x_NCHW)
            expected, seen[:] = [value.clone() for value in seen], []
            lowered(x_NCHW)
        if layer != "blocks.1.conv_block.conv1":  # which is inside the operator
            torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)
    finally:
        handle.remove()


def test_the_hooks_of_pruning_are_not_a_users():
    model = Net()
    prune.identity(model.blocks[0].conv1, "weight")
    model = trained_norms_(convert_(model, MoDConfig(c=4), example=torch.rand(1, 16, 8, 8)))
    assert trace_flow(model, torch.rand(1, 16, 8, 8)).overwritable == {"blocks.1"}


class Values(Net):
    def between(self, y):
        return self.blocks[1](y * 2) * y.mean().item()


class ValuesAfter(Net):
    def between(self, y):
        z = self.blocks[1](y)
        return z * (2 if y.isnan().any() else 1)


@pytest.mark.parametrize("net", [Values, ValuesAfter])
def test_in_a_real_pass(net):
    x_NCHW = torch.rand(2, 16, 8, 8)
    model = trained_norms_(convert_(net(), MoDConfig(c=4), example=x_NCHW))
    flow = trace_flow(model, x_NCHW)
    assert flow.overwritable == ({"blocks.1"} if net is Values else set())
    assert flow.conv_norms == trace_flow(trained_norms_(convert_(Net(), MoDConfig(c=4), example=x_NCHW))).conv_norms
    with torch.inference_mode():
        torch.testing.assert_close(lower(model, example=x_NCHW)(x_NCHW), model(x_NCHW), atol=1e-5, rtol=1e-5)

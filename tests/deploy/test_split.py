from typing import Any

import numpy
import onnx_ir
import onnxruntime
import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import nn

from cnnmod import MoDConfig, convert_, lower, mod_blocks
from cnnmod.deploy.targets.table import find_format
from cnnmod.networks import build
from conftest import trained_norms_
from small import digits_resnet, shallow_resnet

EXAMPLE = torch.rand(2, 1, 8, 8)
POOL_OF_16 = MoDConfig(c=8, candidates=1)


def written(model, path, kind="onnx"):
    """Write a file, check that it computes the same as the network, and return its nodes."""
    lowered = lower(model, "onnxruntime", example=EXAMPLE[:1])
    find_format(kind).write(lowered, EXAMPLE, path, dynamic_batch=True)
    session = onnxruntime.InferenceSession(path)
    found = session.run(None, {"images": EXAMPLE.numpy()})
    with torch.inference_mode():
        expected = model(EXAMPLE)
    for ours, theirs in zip(found, expected if isinstance(expected, list) else [expected], strict=True):
        numpy.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5 * float(theirs.abs().max()))
    return list(onnx_ir.load(path).graph)


def first_channels(nodes: Any):
    """Return the numbers of channels of the feature maps that are sliced."""
    maps = [node.inputs[0].shape for node in nodes if node.op_type == "Slice"]
    return [shape[1] for shape in maps if len(shape) == 4]


@pytest.mark.slow
def test_mod_blocks_access_only_their_candidates(tmp_path):
    model = trained_norms_(convert_(digits_resnet(), POOL_OF_16, example=EXAMPLE))
    nodes: Any = written(model, tmp_path / "network.onnx")
    gathers = [node for node in nodes if node.op_type == "GatherND"]
    assert [block.channels for block in mod_blocks(model).values()] == [16, 32, 32, 64, 64]
    # With 16 channels, all are candidates. With 32 and 64, the first 16 are in a separate tensor.
    assert [gather.inputs[0].shape[1] for gather in gathers] == [16] * len(gathers)
    assert not first_channels(nodes)
    added = [use.node for gather in gathers for use in gather.inputs[0].uses() if use.node.op_type == "Add"]
    assert {node.outputs[0].shape[1] for node in added} == {16}


@pytest.mark.slow
def test_convolutions_with_zero_weights_are_kept(tmp_path):
    """An untrained network, whose last norms are zero, keeps all convolutions, so that timings are valid."""
    model = trained_norms_(convert_(shallow_resnet(), POOL_OF_16, example=EXAMPLE))
    convolutions = []
    for name in ("trained.onnx", "fresh.onnx"):
        convolutions.append([node.op_type for node in written(model, tmp_path / name)].count("Conv"))
        for module in model.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
                nn.init.zeros_(module.bn2.bias)
    assert convolutions[0] == convolutions[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "sliced"),
    [
        (MoDConfig(c=8, candidates=1, fuse_to="original"), [32]),  # fusion may change any channel
        # Fusion changes the last channels, which are not candidates.
        pytest.param(MoDConfig(c=8, candidates=1, fuse_to="last"), [], marks=pytest.mark.slow),
        # The first k candidates are sliced.
        pytest.param(MoDConfig(c=8, candidates=1, select="first"), [16, 16], marks=pytest.mark.slow),
        pytest.param(MoDConfig(c=8), [], marks=pytest.mark.slow),  # all channels are candidates
    ],
    ids=str,
)
def test_split_file_equals_eager_for_every_config(config, sliced, tmp_path):
    model = trained_norms_(convert_(shallow_resnet(), config, example=EXAMPLE))
    assert first_channels(written(model, tmp_path / "network.onnx")) == sliced


class Features(nn.Module):
    """Return a feature map, and a softmax over all of its channels."""

    def __init__(self):
        super().__init__()
        self.body = trained_norms_(convert_(shallow_resnet(), POOL_OF_16, example=EXAMPLE))

    def forward(self, x_NCHW):
        x_NCHW = self.body.layer2(
            self.body.layer1(self.body.maxpool(self.body.act1(self.body.bn1(self.body.conv1(x_NCHW)))))
        )
        return [x_NCHW, x_NCHW.softmax(1)]


@pytest.mark.slow
def test_outputs_that_read_all_channels_are_concatenated(tmp_path):
    nodes = written(Features().eval(), tmp_path / "features.onnx")
    assert not first_channels(nodes)


@pytest.mark.slow
def test_widths_not_divisible_by_16_are_not_split(tmp_path):
    model = build("resnet18_cifar", layers=(2, 2, 2, 2), channels=(24, 40, 64, 72), in_chans=1, num_classes=10)
    nodes = written(trained_norms_(convert_(model, POOL_OF_16, example=EXAMPLE)), tmp_path / "network.onnx")
    assert first_channels(nodes) == [24, 40, 72]

"""Errors of torch's exporters name the layer and the reason."""

import pytest
import torch
from torch import nn

from cnnmod.deploy.exportable import not_exportable
from cnnmod.deploy.targets.table import find_format
from small import shallow_resnet

EXAMPLE = torch.rand(1, 1, 8, 8)
FORMATS = ["onnx", pytest.param("openvino", marks=pytest.mark.slow), "pt2"]


class Branches(nn.Module):
    def forward(self, x_NCHW):
        return x_NCHW * 2 if x_NCHW.sum() > 0 else x_NCHW


@pytest.mark.parametrize("kind", FORMATS)
def test_error_names_the_layer_that_cannot_be_exported(kind, tmp_path):
    model = shallow_resnet().eval()
    model.layer2[0].act1 = Branches()
    with pytest.raises(ValueError, match=r"cannot be exported: ResNet\.layer2\.0\.act1 \(Branches\): ") as caught:
        find_format(kind).write(model, EXAMPLE, tmp_path / f"network{find_format(kind).suffix}", dynamic_batch=True)
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.iterdir()]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_network_that_does_not_run_raises_the_original_error():
    first = TypeError("the first error")
    with pytest.raises(TypeError, match="the first error"):
        not_exportable(shallow_resnet(), torch.rand(1, 3, 8, 8), first)


def test_error_names_the_network_if_every_layer_can_be_exported():
    error = not_exportable(nn.Sequential(nn.ReLU()), EXAMPLE, RuntimeError("what it says\nand more"))
    assert str(error) == "the network cannot be exported: Sequential (Sequential): what it says"


def test_error_says_that_the_batch_size_is_fixed():
    error = not_exportable(nn.ReLU(), EXAMPLE, RuntimeError("Constraints violated (batch)!"))
    assert str(error).startswith("ReLU does not support a dynamic batch")

import pytest
import timm
import torch
import torchvision
from torch import nn

from cnnmod import convert_, mod_blocks
from cnnmod.networks.dilate import dilate_
from cnnmod.networks.features import open_backbone


def test_dilated_network_equals_timm() -> None:
    torch.manual_seed(0)
    ours = timm.create_model("resnet26t", features_only=True, out_indices=(4,))
    torch.manual_seed(0)
    timms = timm.create_model("resnet26t", features_only=True, out_indices=(4,), output_stride=8)
    x_NCHW = torch.rand(2, 3, 65, 97)
    with pytest.raises(ValueError, match=r"AvgPool2d.* makes the stride larger than output_stride = 8"):
        dilate_(ours, 8)
    ours, timms = (
        timm.create_model("resnet26", features_only=True, out_indices=(4,), **stride)
        for stride in ({}, {"output_stride": 8})
    )
    timms.load_state_dict(ours.state_dict())
    for one in (ours, timms):
        one.eval()
    assert torch.equal(dilate_(ours, 8)(x_NCHW)[0], timms(x_NCHW)[0])


def test_dilating_before_and_after_converting_is_equivalent() -> None:
    torch.manual_seed(0)
    before = convert_(dilate_(timm.create_model("resnet26", num_classes=5), 8))
    after = dilate_(convert_(timm.create_model("resnet26", num_classes=5)), 8)
    after.load_state_dict(before.state_dict())
    x_NCHW = torch.rand(2, 3, 64, 96)
    assert torch.equal(before.eval()(x_NCHW), after.eval()(x_NCHW))
    inner = mod_blocks(after)["layer4.1"].conv_block.conv2
    assert inner.dilation == (4, 4)
    assert inner.padding == (4, 4)


def test_smaller_output_stride_is_unchanged() -> None:
    model = timm.create_model("resnet18_cifar")
    dilated = dilate_(timm.create_model("resnet18_cifar"), 8)
    assert str(model) == str(dilated)


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("resnet50_mod", [4, 8, 16, 32]),
        pytest.param("mobilenetv2_mod", [4, 8, 16, 32], marks=pytest.mark.slow),
        pytest.param("vgg16_bn", [2, 4, 8, 16], marks=pytest.mark.slow),
        ("convnext_tiny_mod", [4, 8, 16, 32]),
        ("torchvision/regnet_y_400mf", [4, 8, 16, 32]),
    ],
)
def test_stages_are_found_by_shape(name: str, strides: list[int]) -> None:
    opened = open_backbone(name, {})
    assert [stage.stride for stage in opened.stages if stage.stride > 1] == strides
    maps = opened.maps({stage: str(stage.stride) for stage in opened.stages})
    with torch.inference_mode():
        found = maps.eval()(torch.rand(1, 3, 64, 96))
    for stage in opened.stages:
        assert found[str(stage.stride)].shape == (1, stage.channels, 64 // stage.stride, 96 // stage.stride)


def test_error_names_the_layer_that_cannot_be_dilated() -> None:
    with pytest.raises(ValueError, match=r"stages.2.downsample.1 \(kernel \(2, 2\)"):
        dilate_(without_weights("convnext_tiny"), 8)
    with pytest.raises(ValueError, match=r"MaxPool2d.* makes the stride larger than output_stride = 8"):
        dilate_(without_weights("vgg11_bn"), 8)


def without_weights(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


def test_backbone_args_require_a_backbone_name() -> None:
    with pytest.raises(ValueError, match="backbone_args are accepted only with the name of a backbone"):
        open_backbone(torchvision.models.resnet18(), {"num_classes": 10})
    with pytest.raises(ValueError, match="wrapped in DataParallel"):
        open_backbone(nn.DataParallel(torchvision.models.resnet18()), {})

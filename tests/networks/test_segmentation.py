from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.models.resnet import Bottleneck, ResNet

from cnnmod import MoDConfig, control_, convert_, count, lower, mod_blocks, save
from cnnmod.networks import build, load
from cnnmod.networks.segmentation import deeplabv3, fcn

NARROW: dict[str, Any] = {"backbone_args": {"channels": [16, 32, 64, 128]}, "head_channels": 16}


@pytest.mark.parametrize(
    ("name", "parameters_m", "tera_macs"),
    [
        ("fcn_resnet50", 47.114, 0.3927),
        ("fcn_resnet50_mod", 39.663, 0.3220),
        ("fcn_resnet75_mod", 44.657, 0.3585),
        pytest.param("fcn_resnet86_mod", 47.154, 0.3768, marks=pytest.mark.slow),
    ],
)
def test_parameters_and_macs_equal_the_paper(name: str, parameters_m: float, tera_macs: float) -> None:
    with torch.device("meta"):
        found = count(build(name, aux=False), torch.empty(1, 3, 512, 1024))
    assert round(found.parameters / 1e6, 3) == parameters_m
    assert round(found.gmacs / 1e3, 4) == tera_macs


def test_converting_the_network_equals_converting_its_backbone() -> None:
    whole = convert_(fcn("resnet18", 5, **NARROW), MoDConfig())
    over = fcn("resnet18_mod", 5, **NARROW)
    over.load_state_dict(whole.state_dict())
    x_NCHW = torch.rand(2, 3, 65, 97)
    for one in (whole, over):
        one.eval()
    assert torch.equal(whole(x_NCHW)["out"], over(x_NCHW)["out"])
    assert [name.removeprefix("backbone.") for name in mod_blocks(over)] == [
        "layer1.1",
        "layer2.1",
        "layer3.1",
        "layer4.1",
    ]


def test_torchvision_fcn_is_converted() -> None:
    model = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=5)
    assert len(mod_blocks(convert_(model))) == 7
    with torch.inference_mode():
        assert model.eval()(torch.rand(1, 3, 64, 64))["out"].shape == (1, 5, 64, 64)


@pytest.mark.parametrize("head", ["paper", "torchvision"])
def test_output_has_the_size_of_the_image(head: str) -> None:
    model = fcn(timm.create_model("resnet18"), 5, head=head, head_channels=32).eval()
    with torch.inference_mode():
        found = model(torch.rand(2, 3, 61, 83))
    assert {name: tuple(logits.shape) for name, logits in found.items()} == dict.fromkeys(
        ("out", "aux"), (2, 5, 61, 83)
    )


def test_deeplab_trains_without_an_auxiliary_head() -> None:
    model = deeplabv3("resnet18_mod", 5, aux=False, backbone_args=NARROW["backbone_args"])
    out = model(torch.rand(2, 3, 64, 64))
    assert list(out) == ["out"]
    out["out"].mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_control_equals_the_network_without_mod_blocks() -> None:
    control = control_(fcn("resnet50_mod", 5, head_channels=16)).eval()
    bare = fcn(ResNet(Bottleneck, (2, 2, 3, 2)), 5, head_channels=16).eval()
    bare.load_state_dict(dict(zip(bare.state_dict(), control.state_dict().values(), strict=True)))
    x_NCHW = torch.rand(2, 3, 64, 96)
    assert torch.equal(control(x_NCHW)["out"], bare(x_NCHW)["out"])


def test_lowered_network_has_no_auxiliary_head() -> None:
    model = fcn("resnet18_mod", 5, **NARROW).eval()
    x_NCHW = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        expected, found = model(x_NCHW), lower(model)(x_NCHW)
    assert list(found) == ["out"]
    torch.testing.assert_close(found["out"], expected["out"], atol=1e-5, rtol=1e-5)
    assert "aux" in model(x_NCHW)


@pytest.mark.slow
def test_network_is_saved_and_loaded(tmp_path: Path) -> None:
    arguments = {"backbone": "resnet18", "num_classes": 5, "backbone_args": {"channels": [16, 32, 64, 128]}}
    model = convert_(build("fcn", **arguments), MoDConfig(c=16, order="index"))
    save(model, tmp_path / "fcn.safetensors", factory="cnnmod/fcn", factory_args=arguments)
    x_NCHW = torch.rand(1, 3, 64, 64)
    assert torch.equal(load(tmp_path / "fcn.safetensors").eval()(x_NCHW)["out"], model.eval()(x_NCHW)["out"])
    named = build("fcn_resnet50_mod", num_classes=3, config=MoDConfig(order="index"))
    save(named, tmp_path / "named.safetensors", factory="cnnmod/fcn_resnet50_mod", factory_args={"num_classes": 3})
    assert mod_blocks(load(tmp_path / "named.safetensors"))["backbone.layer1.1"].config.order == "index"


@pytest.mark.parametrize(
    "arguments", [{"backbone": "os:getcwd"}, {"backbone": "resnet18", "backbone_args": {"pretrained": True}}]
)
def test_load_refuses_arguments_that_import_or_download(tmp_path: Path, arguments: dict[str, object]) -> None:
    model = fcn("resnet18", 5, **NARROW)
    save(model, tmp_path / "fcn.safetensors", factory="cnnmod/fcn", factory_args=arguments | {"num_classes": 5})
    with pytest.raises(ValueError, match="could download, import or read other files"):
        load(tmp_path / "fcn.safetensors")


def test_invalid_arguments_raise() -> None:
    with pytest.raises(ValueError, match="head must be 'paper' or 'torchvision', not 'small'"):
        fcn("resnet18", 5, head="small")
    with pytest.raises(ValueError, match="unknown network 'resnet51'"):
        fcn("resnet51", 5)
    with pytest.raises(ValueError, match=r"'fcn' needs the arguments 'backbone', 'num_classes'"):
        build("fcn")

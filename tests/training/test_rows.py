import pytest
import torch

import cnnmod
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import build_row, factory_of


def blocks(model):
    return cnnmod.mod_blocks(model)


@pytest.mark.parametrize("network", ["resnet18_cifar_mod", "resnet18_cifar"], ids=["named MoD", "converted"])
def test_three_networks_are_built(network):
    made = recipe("cifar10_fast", [f"network={network}", "config.order=index"])
    baseline, mod, control = (build_row(made, row, 10) for row in ("baseline", "mod", "control"))
    assert not blocks(baseline)
    assert {block.config.order for block in blocks(mod).values()} == {"index"}
    assert len(blocks(mod)) == 4
    assert not blocks(control)
    images = torch.rand(2, 3, 32, 32)
    assert [model(images).shape for model in (baseline, mod, control)] == [(2, 10)] * 3


@pytest.mark.parametrize("row", ["baseline", "mod"])
@pytest.mark.parametrize("change", ["replace_stride_with_dilation=[false,false,true]", "width_of_groups=1"])
def test_invalid_factory_arguments_raise(row, change):
    named = ["baseline=torchvision/resnet18", "network=torchvision/resnet18", "network_args={}"]
    with pytest.raises(ValueError, match=r"torchvision/resnet18 cannot be built with \{"):
        build_row(recipe("imagenet", [*named, f"network_args.{change}"]), row, 10)


def test_factory_has_name_and_arguments():
    gray = recipe("digits")
    assert factory_of(gray, "mod", 7) == (
        "cnnmod/resnet18_cifar_mod",
        gray.networks.network_args | {"num_classes": 7, "in_chans": 1},
    )
    assert factory_of(recipe("cifar10"), "baseline", 10)[0] == "cnnmod/resnet18_cifar"

import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, mod_blocks
from cnnmod.networks import build

MILLIONS = {
    "resnet18_cifar_mod": (4.948, 4.995),
    "resnet34_cifar_mod": (12.419, 12.465),
    "resnet50_cifar_mod": (16.070, 16.254),
    "vgg16_bn_cifar_mod": (9.834, 9.880),
    "vgg19_bn_cifar_mod": (9.909, 9.955),
    "resnet18_cifar": (11.17, 11.22),
    "resnet34_cifar": (21.28, 21.33),
    "resnet50_cifar": (23.52, 23.71),
    "vgg16_bn_cifar": (15.25, 15.30),
    "vgg19_bn_cifar": (20.57, 20.61),
}


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_equal_the_paper(name):
    for classes, millions in zip((10, 100), MILLIONS[name], strict=True):
        digits = 3 if name.endswith("_mod") else 2
        with torch.device("meta"):
            model = build(name, num_classes=classes)
        found = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        # The paper truncates some numbers and rounds others.
        assert abs(found - millions) <= (0.0005 if digits == 3 else 0.011), found


def test_dense_networks_do_not_accept_config():
    with pytest.raises(ValueError, match="unexpected keyword argument 'config'"):
        build("resnet18_cifar", config=MoDConfig())


def test_vgg_has_the_paper_head_and_biases():
    model = build("vgg16_bn_cifar_mod")
    shapes = [tuple(layer.weight.shape[:2]) for layer in (model.pre_logits.fc1, model.pre_logits.fc2, model.head.fc)]
    assert shapes == [(512, 512), (512, 512), (10, 512)]
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    assert all(layer.bias is not None for layer in model.modules() if isinstance(layer, nn.Conv2d))


def test_user_arguments_override_the_defaults():
    widths, config = [16, 32, 64, 128], MoDConfig(order="index")
    model = build("resnet18_cifar_mod", layers=(2, 3, 2, 2), channels=widths, config=config)
    assert list(mod_blocks(model)) == ["layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    assert [block.channels for block in mod_blocks(model).values()] == widths

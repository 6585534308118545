import pytest
import torch
from torch import nn

from cnnmod.method.trace import example_for, meta_forward
from cnnmod.networks import build


def test_leaves_the_network_as_it_was():
    model = build("resnet18").train()
    model.layer1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert meta_forward(model).shape == (1, 1000)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert not any(module._forward_hooks for module in model.modules())


def test_also_after_an_error():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(5, 5)).train()
    with pytest.raises(ValueError, match=r"Sequential does not run on an example of shape \(1, 3, 224, 224\): "):
        meta_forward(model, hook=lambda *args: None)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_example_follows_the_network():
    assert example_for(build("resnet18_cifar", in_chans=5)).shape == (1, 5, 32, 32)
    assert example_for(nn.Conv2d(7, 8, 3)).shape == (1, 7, 224, 224)
    assert example_for(nn.Conv2d(7, 8, 3).half()).dtype == torch.float16
    with pytest.raises(ValueError, match="Linear has no convolution"):
        example_for(nn.Linear(2, 2))


def test_an_input_that_is_too_small():
    with pytest.raises(ValueError, match=r"VGG does not run on an example of shape \(1, 3, 8, 8\)"):
        meta_forward(build("vgg16_bn_cifar"), torch.zeros(1, 3, 8, 8))


def test_a_first_convolution_that_does_not_take_the_image():
    assert example_for(build("tresnet_m")).shape == (1, 3, 224, 224)  # it folds pixels into channels first


class Keeping(nn.Module):
    """Keeps a grid for the image that it sees, and counts."""

    def __init__(self):
        super().__init__()
        self.conv, self.grid, self.grids, self.calls = nn.Conv2d(3, 3, 1), None, [], 0
        self.alias = self.grids

    def forward(self, x):
        if self.grid is None:
            self.grid = torch.linspace(0, 1, x.shape[-1], device=x.device)
        self.grids.append(self.grid)
        self.calls += 1
        self.extra = self.grid
        return self.conv(x) * self.grid


def test_what_a_network_keeps_for_an_image_is_forgotten():
    model = Keeping()
    meta_forward(model, torch.rand(1, 3, 8, 8))
    assert (model.grid, model.grids, model.calls) == (None, [], 0)
    assert model.alias is model.grids
    assert not hasattr(model, "extra")
    model(torch.rand(1, 3, 8, 8))


def test_an_overridden_train_is_not_called():
    class Merging(nn.Sequential):
        def train(self, mode=True):
            raise AssertionError("its weights would change")

    model = Merging(nn.Conv2d(3, 3, 1))
    meta_forward(model)
    assert model.training


def test_an_example_that_is_no_tensor():
    with pytest.raises(ValueError, match=r"example must be a tensor \(N, C, H, W\) or None, not tuple"):
        meta_forward(nn.Conv2d(3, 3, 1), (1, 3, 8, 8))

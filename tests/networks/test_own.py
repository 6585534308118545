import re

import pytest
import torch

import cnnmod
from cnnmod.networks import build
from cnnmod.networks.own import open_network
from small import tiny_network


@pytest.fixture
def weights(tmp_path):
    torch.save(build("cnnmod/resnet18_cifar", num_classes=7, channels=(4, 4, 4, 4)).state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_network_is_built_with_the_classes_of_the_weights(tmp_path, caplog):
    model = build("resnet18_cifar", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    opened = open_network("resnet18_cifar", weights=tmp_path / "w.pth")
    assert torch.equal(opened.get_submodule("fc").weight, model.get_submodule("fc").weight)
    assert "resnet18_cifar is built with the 7 classes of" in caplog.text


def test_factory_of_a_checkpoint_is_named(tmp_path):
    size = (8, 8)
    model = cnnmod.convert_(tiny_network(), cnnmod.MoDConfig(c=4), example=torch.rand(1, 1, *size)).eval()
    path = str(tmp_path / "file.safetensors")
    cnnmod.save(model, path, factory="small:tiny_network")
    with pytest.raises(ValueError, match="name yours: --network small:tiny_network"):
        open_network(path)
    images = torch.rand(2, 1, *size)
    assert torch.equal(open_network(path, network="small:tiny_network", size=size).eval()(images), model(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "name a network, such as"),
        ({"name": "resnet18", "network": "resnet34"}, "two networks are named, resnet18 and --network resnet34"),
        ({"name": "w.pth", "network": "small:tiny_network"}, "w.pth is not a checkpoint, which is a .safetensors file"),
        ({"name": "a.safetensors", "weights": "w.pth"}, "the checkpoint a.safetensors has its own weights"),
        ({"name": "small:tiny_network", "weights": "w.pth"}, "w.pth is of another network: it has no stem.weight"),
    ],
)
def test_mistakes_raise(arguments, message, weights, monkeypatch):
    monkeypatch.chdir(weights.parent)
    with pytest.raises(ValueError, match=re.escape(message)):
        open_network(**arguments)

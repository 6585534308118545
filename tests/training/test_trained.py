import re
from pathlib import Path

import pytest
import torch

import cnnmod
from cnnmod.networks import HubNetwork, build
from cnnmod.training.trained import open_trained
from small import tiny_network, tiny_network_mod


def test_opens_files_that_are_in_no_run_folder(tmp_path):
    model = tiny_network_mod().eval()
    torch.save(model.state_dict(), tmp_path / "own.pth")
    cnnmod.save(model, tmp_path / "own.safetensors", factory="small:tiny_network")
    images = torch.rand(2, 1, 8, 8)
    from_weights = open_trained(network="small:tiny_network_mod", weights=tmp_path / "own.pth", recipe="digits")
    from_checkpoint = open_trained(tmp_path / "own.safetensors", network="small:tiny_network", recipe="digits")
    for opened in (from_weights, from_checkpoint):
        assert torch.equal(opened.model.eval()(images), model(images))
        assert opened.recipe.images.size == (8, 8)
        assert opened.classes is None


def test_opens_a_hub_folder(tmp_path):
    model = cnnmod.convert_(build("resnet18", num_classes=10)).eval()
    HubNetwork(model, factory="timm/resnet18", factory_args={"num_classes": 10}).save_pretrained(tmp_path)
    opened = open_trained(tmp_path, recipe="cifar10")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(opened.model.eval()(images), model(images))


def test_run_folder_raises_an_error_that_names_its_checkpoint(tmp_path):
    cnnmod.save(tiny_network_mod(), tmp_path / "best.safetensors")
    with pytest.raises(OSError, match=rf"has no config.json; name a file in it, such as {tmp_path}/best.safetensors$"):
        open_trained(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "name a checkpoint of cnnmod, or a network and its weights"),
        ({"weights": Path("own.pth")}, "name a checkpoint of cnnmod, or a network and its weights"),
        ({"checkpoint": Path("own.pth")}, "own.pth is in no run folder of cnnmod train; name the recipe"),
        ({"weights": Path("own.pth"), "network": "small:tiny_network", "changes": ["a=1"]}, "in no run folder"),
    ],
)
def test_mistakes_raise(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(tiny_network().state_dict(), "own.pth")
    with pytest.raises(ValueError, match=re.escape(message)):
        open_trained(**arguments)

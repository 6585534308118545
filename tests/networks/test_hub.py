"""Folders that timm and huggingface_hub read."""

import json

import pytest
import timm
import torch
from timm.models import save_for_hf

from cnnmod import MoDConfig, control_, convert_, mod_blocks
from cnnmod.networks import HubNetwork, build, load
from conftest import trained_norms_

ARGUMENTS = {"layers": [1, 2, 1, 1], "channels": [8, 8, 16, 16], "num_classes": 3, "in_chans": 1}
IMAGES = torch.rand(2, 1, 16, 16)
STATISTICS = {"mean": [0.4], "std": [0.3], "size": (16, 16), "classes": ["a", "b", "c"]}
CONFIGS = [
    MoDConfig(c=4, order="index", candidates=2),
    MoDConfig(c=4, order="index", scale="input", fuse_to="all", placement="all"),
    MoDConfig(c=4, reduction=2, placement=lambda module, position: True),
]


def check(folder, model):
    """Check that timm, huggingface_hub and cnnmod load the folder, and that they compute the same as the model."""
    for loaded in (
        timm.create_model(f"local-dir:{folder}", pretrained=True),
        HubNetwork.from_pretrained(folder),
        load(folder),
    ):
        assert len(mod_blocks(loaded)) == len(mod_blocks(model))
        with torch.inference_mode():
            torch.testing.assert_close(loaded.eval()(IMAGES), model.eval()(IMAGES), rtol=0, atol=0)


@pytest.mark.parametrize("config", CONFIGS, ids=["candidates", "all", "callable"])
def test_converted_network_is_the_same_in_timm_and_huggingface_hub(config, tmp_path):
    model = trained_norms_(convert_(build("resnet18_cifar", **ARGUMENTS), config, example=IMAGES))
    hub = HubNetwork(model, factory="cnnmod/resnet18_cifar", factory_args=ARGUMENTS, **STATISTICS)
    hub.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    check(tmp_path, model)
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert network.pretrained_cfg["label_names"] == ["a", "b", "c"]
    assert timm.data.resolve_data_config(model=network)["input_size"] == [1, 16, 16]
    assert HubNetwork.from_pretrained(tmp_path).classes == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["control", "paper", "dense"])
def test_other_networks_are_the_same(kind, tmp_path):
    name = "resnet18_cifar" if kind == "dense" else "resnet18_cifar_mod"
    model = trained_norms_(build(name, **ARGUMENTS))
    if kind == "control":
        control_(model)
    HubNetwork(model, factory=f"cnnmod/{name}", factory_args=ARGUMENTS, size=(16, 16)).save_pretrained(tmp_path)
    check(tmp_path, model)


def test_fields_of_the_config_are_arguments_in_timm_and_in_timms_own_folders(tmp_path):
    model = timm.create_model("resnet18_cifar_mod", **ARGUMENTS, candidates=4, placement=["layer2.1"])
    assert {block.config.candidates for block in mod_blocks(model).values()} == {4}
    assert [*mod_blocks(model)] == ["layer2.1"]
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.eval()(IMAGES), model.eval()(IMAGES), rtol=0, atol=0)
    with pytest.raises(ValueError, match="no pretrained weights are published for resnet18_cifar_mod"):
        timm.create_model("resnet18_cifar_mod", pretrained=True)


def test_factory_outside_of_the_libraries_raises(tmp_path):
    with pytest.raises(
        ValueError, match=r"^factory must be timm/NAME, .*, not 'small:tiny_network'.*use cnnmod.save and cnnmod.load_"
    ):
        HubNetwork(torch.nn.Identity(), factory="small:tiny_network")
    arguments = {"factory": "os:system", "factory_args": {}}
    config = {"architecture": "hub_network", "model_args": arguments, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(Exception, match="may name only factories of timm, torchvision and"):
        timm.create_model(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"architecture": "resnet18"},
            "of another library: the architecture in its config.json is 'resnet18'",
        ),
        ({"architectures": ["BertModel"]}, "is ['BertModel'], not 'hub_network'"),
        ({}, "is None, not 'hub_network'"),
    ],
    ids=str,
)
def test_folder_of_another_library_prints_one_line_and_exits_2(config, message, tmp_path_factory, mistake):
    folder = tmp_path_factory.mktemp("other")
    (folder / "config.json").write_text(json.dumps(config))
    for command in (
        ["info", str(folder)],
        ["export", str(folder), "--out", "a.onnx"],
        ["evaluate", str(folder), "--data", "digits", "--recipe", "digits"],
    ):
        mistake(command, message)


def test_file_that_is_not_a_network_prints_one_line_and_exits_2(tmp_path_factory, mistake):
    page = tmp_path_factory.mktemp("other") / "network.safetensors"
    page.write_text("<!doctype html><title>Index of /</title>")
    mistake(["info", str(page)], "is a web page (HTML), not a file of weights")

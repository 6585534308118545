"""The networks that `cnnmod tune` takes."""

import json

import pytest
import timm
import torch

from cnnmod.cli import run
from cnnmod.method.structure import read_structure
from cnnmod.networks import load
from cnnmod.networks.own import open_network

ARGUMENTS = {"channels": [8, 16, 24, 32], "in_chans": 1, "num_classes": 10}


def published(path):
    """Write weights as if they were published for timm's resnet18, and return the arguments that load them."""
    model = timm.create_model("resnet18", **ARGUMENTS)
    torch.save(model.state_dict(), path)
    overlay = {"file": str(path), "num_classes": 10}
    return model, ARGUMENTS | {"pretrained": True, "pretrained_cfg_overlay": overlay}


def tune(out, arguments, *more):
    options = ["tune", "timm/resnet18", "--data", "digits", "--recipe", "digits", "--out", str(out), "--budget", "1"]
    options += ["--runtime", "eager", "--rounds", "1", "--passes", "1", *more]
    changes = [f"network_args.{name}={json.dumps(value)}" for name, value in arguments.items()]
    run([*options, "--set", "validation_fraction=0.1", "train_images=128", *changes])


def test_arguments_load_published_weights(tmp_path):
    expected, arguments = published(tmp_path / "weights.pth")
    model = open_network("timm/resnet18", arguments=arguments)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())
    torch.save({"state_dict": expected.state_dict()}, tmp_path / "own.pth")
    own = open_network("timm/resnet18", weights=tmp_path / "own.pth", arguments=ARGUMENTS)
    assert torch.equal(own.fc.weight, expected.fc.weight)


@pytest.mark.slow
def test_tune_starts_from_published_weights(tmp_path):
    expected, arguments = published(tmp_path / "weights.pth")
    tune(tmp_path / "tuned", arguments)
    assert read_structure(tmp_path / "tuned" / "tuned.safetensors").factory_args == ARGUMENTS  # loads nothing else
    tuned = load(tmp_path / "tuned" / "tuned.safetensors")
    assert torch.equal(tuned.conv1.weight, expected.conv1.weight)


def test_the_factory_gets_the_arguments(tmp_path, capsys, caplog):
    overlay = {"file": str(tmp_path / "missing.pth"), "num_classes": 10}
    with pytest.raises(SystemExit) as exited:
        tune(tmp_path / "tuned", ARGUMENTS | {"pretrained": True, "pretrained_cfg_overlay": overlay})
    assert exited.value.code == 2
    assert "missing.pth" in caplog.text  # of timm
    assert capsys.readouterr().err == "cnnmod: FileNotFoundError\n"
    assert not (tmp_path / "tuned").exists()


def test_arguments_of_a_checkpoint_raise():
    with pytest.raises(ValueError, match="network_args are for the name of a network; the checkpoint "):
        open_network("a.safetensors", arguments={"pretrained": True})

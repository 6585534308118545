"""Networks and weights of the user, in every subcommand that takes a network."""

import json
import os
from pathlib import Path

import pytest
import torch

from cnnmod.cli import run
from pictures import classes
from small import color_network, tiny_network_mod

NETWORK = ["--network", "small:color_network"]
OWN = [*NETWORK, "--weights", "own.pth"]
SHORT = ["epochs=1", "batch_size=4", "image_size=8", "config.c=4", "warmup_epochs=0"]
DATA = ["--data", "data", "--out", "other", "--workers", "0", "--set", "image_size=8", "batch_size=4"]
TRAIN = ["train", "finetune", *OWN, "--data", "data", "--out", "runs", "--workers", "0"]
HERE = ["--workers", "0"]
RECIPE = ["--recipe", "finetune", "--set", "image_size=8"]


def code():
    """Return an object whose pickle runs code when it is loaded."""

    class Code:
        def __reduce__(self):
            return os.system, ("exit 1",)

    return Code()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with images, weights and finished runs of the three rows."""
    folder = tmp_path_factory.mktemp("own")
    for split in ("train", "val"):
        classes(folder / "data", split, ["cat", "dog"], 10)
        classes(folder / "three", split, ["cat", "dog", "eel"], 10)
    torch.manual_seed(0)
    torch.save({"state_dict": color_network(2).state_dict()}, folder / "own.pth")
    torch.save(color_network(5).state_dict(), folder / "five.pth")
    torch.save({"stem.weight": torch.ones(1)}, folder / "other.pth")
    torch.save({"model": code()}, folder / "code.pth")
    (folder / "page.pth").write_text("<html></html>")
    before = Path.cwd()
    os.chdir(folder)
    try:
        run([*TRAIN, "--rows", "baseline", "mod", "control", "--set", *SHORT])
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_rows_start_from_the_weights_and_log_the_validation_loss(here):
    for row in ("baseline", "mod", "control"):
        content = json.loads((here / "runs" / f"{row}-seed0" / "run.json").read_text())
        assert content["run"]["recipe"]["networks"]["weights"] == str(here / "own.pth")
        assert content["run"]["recipe"]["task"]["teacher"] == "dense"
        lines = (here / "runs" / f"{row}-seed0" / "metrics.jsonl").read_text().splitlines()
        assert any("validation_loss" in json.loads(line) for line in lines)


def test_info_export_and_compare_take_own_networks(here, tmp_path, output):
    assert len(output(["info", *OWN, "--size", "8"])["plan"]["blocks"]) == 2
    report = output(["export", *OWN, "--size", "8", "--out", str(tmp_path / "dense.pt2")])
    assert report["largest_error"] < 1e-4
    rows = output(["compare", *OWN, "--size", "8", "--rounds", "1", "--set", "c=4"])["rows"]
    name = "small:color_network MoD c=4"
    assert [row["name"] for row in rows] == ["small:color_network", name, f"{name} control"]
    accuracy = ["compare", "--accuracy", "runs/accuracy.json", "--rounds", "1"]
    assert len(output([*accuracy, *NETWORK])["rows"]) == 3


def test_report_takes_own_networks(here, tmp_path, output):
    output(["report", "runs", *NETWORK, "--out", str(tmp_path / "report.html")])
    assert "<svg" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_checkpoints_of_own_networks_run_if_their_factory_is_named(here, tmp_path, output):
    checkpoint = "runs/mod-seed0/best.safetensors"
    (here / "own.pth").rename(here / "moved.pth")  # the checkpoint needs no other file
    try:
        tested = output(["evaluate", checkpoint, *NETWORK, "--data", "data", *HERE])
        assert tested == json.loads((here / "runs/mod-seed0/result.json").read_text())["accuracy"]
        assert output(["inspect", checkpoint, *NETWORK, "--data", "data", *HERE])["blocks"][0]["k"] == 4
        image = "data/val/cat/1.png"
        (found,) = output(["predict", checkpoint, image, *NETWORK, "--out", str(tmp_path)])
        assert found["classes"].keys() == {"cat", "dog"}
        assert output(["info", checkpoint, *NETWORK])["mod_blocks"].keys() == {"blocks.1"}
        names = output(["compare", checkpoint, *NETWORK, "--rounds", "1"])["rows"]
        assert [row["name"] for row in names] == ["small:color_network", checkpoint, f"{checkpoint} control"]
        out = str(tmp_path / "network.onnx")
        assert output(["export", checkpoint, *NETWORK, "--out", out])["operators"]["TopK"] == 1
        run(["train", "--resume", "runs/mod-seed0", *NETWORK])
    finally:
        (here / "moved.pth").rename(here / "own.pth")


def test_weights_are_evaluated_and_predict_without_a_run_folder(here, tmp_path, output):
    assert output(["evaluate", *OWN, "--data", "data", *HERE, *RECIPE])["images"] == 20
    (found,) = output(["predict", "data/val/cat/1.png", *OWN, *RECIPE, "--out", str(tmp_path)])
    assert len(found["classes"]) == 2


def test_inspect_takes_the_weights_of_a_mod_network(tmp_path, output):
    torch.save(tiny_network_mod().state_dict(), tmp_path / "mod.pth")
    weights = ["--network", "small:tiny_network_mod", "--weights", str(tmp_path / "mod.pth")]
    assert output(["inspect", *weights, "--data", "digits", "--recipe", "digits"])["blocks"][0]["k"] == 4


def test_head_with_other_classes_is_replaced_and_this_is_said(here, tmp_path, capsys, caplog):
    arguments = ["train", "finetune", *NETWORK, "--weights", "five.pth", "--data", "data", *HERE]
    run([*arguments, "--out", str(tmp_path / "run"), "--set", *SHORT])
    assert (
        "five.pth has 5 classes, the data set has 2: head is a new layer, and the dense network is not" in caplog.text
    )
    task = json.loads((tmp_path / "run" / "run.json").read_text())["run"]["recipe"]["task"]
    assert task["teacher"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "finetune", *NETWORK, "--weights", "other.pth", *DATA],
            "other.pth is of another network: it has no stem.bias",
        ),
        (
            ["train", "finetune", *NETWORK, "--weights", "code.pth", *DATA],
            "code.pth is a pickle with code (posix.system)",
        ),
        (["train", "finetune", *NETWORK, "--weights", "page.pth", *DATA], "page.pth is a web page (HTML)"),
        (["train", "finetune", *NETWORK, "--weights", "nowhere.pth", *DATA], "nowhere.pth"),
        (
            ["info", *NETWORK, "--weights", "runs/mod-seed0"],
            "is a folder, not a file of weights; name a file in it, such as runs/mod-seed0/best.safetensors",
        ),
        (["evaluate", "runs/mod-seed0", *NETWORK, "--data", "data"], "such as runs/mod-seed0/best.safetensors"),
        (["train", "--resume", "runs/mod-seed0", "--weights", "own.pth"], "--resume reads everything from the run fol"),
        (
            ["train", "--resume", "runs/mod-seed0"],
            "names 'small:color_network', and a file may not import code; name it",
        ),
        (["train", "finetune", *DATA], "--network package.module:factory --weights weights.pth"),
        (["train", "finetune", *NETWORK, *DATA], "the teacher 'dense' needs the trained weights of the dense network"),
        (
            [
                "train",
                "finetune",
                "--network",
                "small:two_classes",
                "--weights",
                "own.pth",
                "--data",
                "three",
                *DATA[2:],
            ],
            "small:two_classes has 2 classes and takes no argument num_classes, but the data set has 3 classes",
        ),
        (
            ["train", "finetune", "--network", "json:loads", "--weights", "own.pth", *DATA],
            "'json:loads' needs the argument 's'; give it a default",
        ),
        (["info", "--network", "inspect:getattr_static"], "needs the arguments 'obj', 'attr'; give each a default"),
        (["info", "--network", "small:color_network", "--weights", "other.pth", "--size", "8"], "it has no stem.bias"),
        (
            ["report", "runs", "--out", "report.html"],
            "runs names 'small:color_network', and a file may",
        ),
        (["compare", "--weights", "own.pth"], "compare takes either names of networks or --accuracy"),
        (["compare", "--accuracy", "runs/accuracy.json"], "name it: --network small:color_network"),
        (
            ["evaluate", "runs/mod-seed0/best.safetensors", "--data", "data"],
            "name yours: --network small:color_network",
        ),
        (["evaluate", *OWN, "--data", "three", *HERE, *RECIPE], "the network has 2 classes, the images have 3"),
        (["evaluate", *OWN, "--data", "data"], "own.pth is in no run folder of cnnmod train; name the recipe"),
        (["evaluate", "--data", "data"], "name a checkpoint of cnnmod, or a network and its weights"),
        (
            ["predict", "data/val/cat/1.png", "--weights", "own.pth"],
            "name a checkpoint of cnnmod, or a network and its",
        ),
        (["export", "runs/mod-seed0/best.safetensors", *OWN, "--out", "a.onnx"], "has its own weights"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_print_one_line_and_write_nothing(arguments, message, here, capsys):
    before = sorted(here.rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(arguments)
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("cnnmod: ")]
    assert stop.value.code == 2
    assert out == ""
    assert len(lines) == 1
    assert message in lines[0]
    assert sorted(here.rglob("*")) == before

import json

import pytest

from cnnmod import control_
from cnnmod.cli import run
from cnnmod.cli.compare import _runtimes_on
from cnnmod.deploy.targets.table import runtimes
from cnnmod.measure.results import read_result
from cnnmod.networks import build

COMPARE = ["compare", "resnet18_cifar_mod", "--rounds", "1"]


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_compare_writes_a_result_that_plot_draws(capsys, tmp_path):
    result, figure = tmp_path / "result.json", tmp_path / "figure.png"
    run([*COMPARE, "--size", "8", "--batch", "1", "2", "--out", str(result)])
    out, err = capsys.readouterr()
    assert "└ control" in out
    assert "eager, batch 2" in err
    assert [row.name for row in read_result(result).rows] == [
        "resnet18_cifar",
        "resnet18_cifar_mod",
        "resnet18_cifar_mod control",
    ]
    run(["plot", str(result), "--out", str(figure)])
    assert str(figure) in capsys.readouterr().out.replace("\n", "")
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_all_stands_for_the_runtimes_of_the_device():
    assert _runtimes_on("cpu") == [name for name in runtimes() if name != "cudagraph"]
    assert _runtimes_on("meta") == ["eager", "compile", "pt2"]


def test_compare_set_changes_the_config(capsys):
    run([*COMPARE, "--size", "8", "--json", "--set", "candidates=1", "order=index"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    name = "resnet18_cifar_mod candidates=1 order=index"
    assert [row["name"] for row in rows] == ["resnet18_cifar", name, f"{name} control"]
    usual = build("resnet18_cifar_mod")
    assert rows[1]["parameters"] < parameters(usual)  # the selector reads fewer channels
    assert rows[2]["parameters"] == parameters(control_(usual))


def test_compare_times_a_training_step_against_a_baseline_at_a_height_and_width(capsys):
    run([*COMPARE, "--train", "--against", "resnet34_cifar", "--batch", "2", "--size", "8", "16", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["step"] == "training"
    assert values["rows"][0]["name"] == "resnet34_cifar"
    assert values["image_shape"] == [3, 8, 16]
    assert [ratio["network"] for ratio in values["ratios"] if ratio["mod_tax"] is not None] == ["resnet18_cifar_mod"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "resnet75_mdo"], "unknown network 'resnet75_mdo'; did you mean resnet75_mod"),
        (["compare"], "compare takes either names of networks or --accuracy: cnnmod compare resnet75_mod"),
        (["compare", "resnet18_mod", "--accuracy", "file"], "compare takes either names of networks or --acc"),
        (["compare", "--accuracy", "file", "--size", "8"], "--accuracy sets the networks and the size"),
        (["compare", "--accuracy", "file"], "file is not valid JSON"),
        (["compare", "resnet18_mod", "--set", "candidate=4"], "unknown MoDConfig field candidate; the fields are c, "),
        (["compare", "resnet18_mod", "--set", "candidates"], "a change must be field=value, not 'candidates'"),
        (
            ["compare", "small:tiny_network_mod", "--size", "8"],
            "its dense network is not known",
        ),
        (["compare", "resnet18_cifar", "resnet18_cifar", "--size", "8"], "a network is named twice: resnet18_cifar, "),
        ([*COMPARE, "--network", "nothing:here"], "--network nothing:here is for checkpoints, and "),
        ([*COMPARE, "--against", "resnet5"], "unknown network 'resnet5'"),
        ([*COMPARE, "--batch", "0"], "batch sizes and rounds must be ≥ 1, not [0] and 1"),
        ([*COMPARE, "--threads", "0"], "threads must be ≥ 1, not 0"),
        ([*COMPARE, "--size", "-3"], "--size must be one or two numbers ≥ 1, not -3"),
        ([*COMPARE, "--device", "tpu"], "--device must be one of 'cpu', 'cuda', not 'tpu'"),
        (["compare", "vgg16_bn_cifar_mod", "--size", "8"], "does not run on an example of shape (1, 3, 8, 8)"),
        ([*COMPARE, "--out", "nowhere/result.json"], "nowhere does not exist"),
        ([*COMPARE, "--out", "."], ". is a folder, not a file"),
        ([*COMPARE, "--batch", "2", "2"], "batch sizes must be distinct, not [2, 2]"),
        (["compare", "resnet50_mod", "resnet50_mod"], "a network is named twice"),
        (["plot", "nothing.json"], "cnnmod: nothing.json does not exist"),
        (["plot", "--out", "figure.bmpx"], "suffix of a figure must be one of .eps, "),
        (["plot", "--out", "figure"], "not 'figure'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_print_one_line_and_exit_2(arguments, message, mistake):
    mistake(arguments, message)

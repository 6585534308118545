import json

import pytest

from cnnmod.cli import run


def test_info_shows_blocks_and_paper_figures(capsys):
    run(["info", "resnet75_mod"])
    out = capsys.readouterr().out
    assert "23,100,253" in out
    assert "the paper's" in out
    run(["info", "resnet75_mod", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["parameters"] == 23_100_253
    assert values["mod_blocks"]["layer4.1"]["k"] == 32
    assert values["paper"]["baseline"] == "resnet50"


def test_info_accepts_any_network(capsys, tmp_path, monkeypatch):
    run(["info", "torchvision/mobilenet_v3_small"])
    out = capsys.readouterr().out
    assert "→ MoD" in out
    (tmp_path / "own_cli_networks.py").write_text("from small import shallow_resnet as make")
    monkeypatch.chdir(tmp_path)
    run(["info", "own_cli_networks:make", "--size", "8", "8", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["plan"]["network"] == "ResNet"
    assert values["plan"]["blocks"][1]["k"] == 1


def test_info_states_why_nothing_is_converted(capsys):
    run(["info", "small:densenet", "--size", "8", "8"])
    assert "DenseLayer: its input is a list" in " ".join(capsys.readouterr().out.split())
    run(["info", "small:densenet", "--size", "8", "8", "--json"])
    assert "nothing to convert" in json.loads(capsys.readouterr().out)["plan"]


def test_info_shows_a_segmentation_network(capsys):
    run(["info", "fcn_resnet50_mod", "--size", "64", "64"])
    out = capsys.readouterr().out
    assert "backbone.layer3.1" in out
    assert "71.58 % mIoU on Cityscapes" in " ".join(out.split())


def test_info_counts_a_network_without_modules(capsys):
    run(["info", "densenet121"])
    out = capsys.readouterr().out
    assert "7,978,856" in out
    assert "0 MoD" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "resnet75_mdo"], "unknown network 'resnet75_mdo'; did you mean resnet75_mod"),
        (["info", "torchvision/resnt18"], "unknown network 'torchvision/resnt18'; did you mean torchvision/resnet18"),
        (
            ["info", "json:loads"],
            "'json:loads' needs the argument 's'; give it a default",
        ),
        (["info", "nowhere:network"], "'nowhere:network' cannot be imported: No module named 'nowhere'"),
        (["info", "resnet18", "--size", "0", "8"], "--size must be one or two numbers ≥ 1, not 0 8"),
        (["demo", "--out", "file/folder"], "Not a directory: 'file/folder'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_print_one_line_and_exit_2(arguments, message, mistake):
    mistake(arguments, message)

import json

import pytest
import torch

import cnnmod
from cnnmod.cli import run
from cnnmod.networks import build
from cnnmod.training.folder import Run
from cnnmod.training.recipes import recipe
from small import SHORT_DIGITS

INT8 = ["--int8", "--data", "digits"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The checkpoint of a short run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(["train", "digits", "--data", "digits", "--out", str(folder), "--set", *SHORT_DIGITS, "train_images=256"])
    return str(folder / "best.safetensors")


def test_export_writes_a_checkpoint(checkpoint, tmp_path, capsys):
    out = tmp_path / "network.onnx"
    capsys.readouterr()
    run(["export", checkpoint, "--out", str(out), "--size", "8", "8", "--with-preprocessing", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["operators"]["TopK"] == 2
    assert values["selection_agreement"] == 1
    assert out.stat().st_size == values["file_bytes"]
    images = recipe("digits").images
    assert values["metadata"]["input"] == "uint8 NHWC, 0 to 255"
    assert json.loads(values["metadata"]["mean"]) == [*images.mean]
    assert json.loads(values["metadata"]["std"]) == [*images.std]


@pytest.fixture
def named_classes(tmp_path):
    """A network of two classes in a folder that has the file of a run."""
    folder = tmp_path / "run"
    folder.mkdir()
    layers = {"layers": [1, 2, 1, 1], "channels": [8, 8, 16, 16], "num_classes": 2}
    name = "resnet18_cifar_mod"
    cnnmod.save(build(name, **layers), folder / "best.safetensors", factory=f"cnnmod/{name}", factory_args=layers)
    identity = Run(recipe=recipe("cifar10"), row="mod", seed=0, data="data")
    content = {"run": identity.to_dict(), "classes": ["cat", "dog"]}
    (folder / "run.json").write_text(json.dumps(content))
    return folder / "best.safetensors"


@pytest.mark.slow
def test_export_writes_class_names(named_classes, tmp_path, capsys):
    run(["export", str(named_classes), "--out", str(tmp_path / "network.onnx"), "--json"])
    metadata = json.loads(capsys.readouterr().out)["metadata"]
    assert metadata["class_names"] == '["cat", "dog"]'
    assert metadata["color_order"] == "RGB"
    assert metadata["input_size"] == "[32, 32]"


@pytest.mark.slow
def test_int8_export_writes_a_checkpoint(checkpoint, tmp_path, capsys):
    out = tmp_path / "network.onnx"
    capsys.readouterr()
    run(["export", checkpoint, "--out", str(out), "--int8", "--data", "digits", "--batch", "5", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["int8"]["images"] == 255
    assert values["int8"]["top1"] > 0.9
    assert values["operators"]["QuantizeLinear"] > 0


@pytest.mark.slow
def test_int8_export_prints_the_agreement(checkpoint, tmp_path, capsys):
    run(["export", checkpoint, "--out", str(tmp_path / "network.onnx"), "--int8", "--data", "digits"])
    assert "on 256 images: the same class for " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "resnet18_mdo", "--out", "a.onnx"], "unknown network 'resnet18_mdo'; did you mean resnet18_mod"),
        (["export", "nothing.safetensors", "--out", "a.onnx"], "nothing.safetensors"),
        (["export", "resnet18_cifar_mod", "--out", "a.pt"], "must be one of .onnx, .xml, .pt2, not 'a.pt'"),
        (["export", "resnet18_cifar_mod", "--out", "a.onnx", "--batch", "0"], "--batch must be ≥ 1, not 0"),
        (
            ["export", "resnet18_cifar_mod", "--out", "a.onnx", "--size", "0", "8"],
            "must be one or two numbers ≥ 1, not 0 8",
        ),
        (["export", "resnet18_cifar_mod", "--out", "a.onnx", "--int8"], "--int8 and --data must be"),
        (
            ["export", "resnet18_cifar_mod", "--out", "a.onnx", "--data", "digits"],
            "--int8 and --data must be",
        ),
        (
            ["export", "resnet18_cifar_mod", "--out", "a.onnx", *INT8, "--size", "8", "8"],
            "--size and --int8 cannot be",
        ),
        (["export", "resnet18_cifar_mod", "--out", "a.onnx", *INT8], "of a trained network, not resnet18_cifar_mod"),
        (["export", "resnet18_cifar_mod", "--out", "a.pt2", "--with-preprocessing"], "preprocessing is supported for"),
        (
            ["export", "small:tiny_network_mod", "--out", "a.onnx", "--with-preprocessing"],
            "needs the mean and standard",
        ),
        (["export", "resnet18_cifar_mod", "--out", "nowhere/a.onnx"], "nowhere does not exist"),
        (["export", "resnet18_cifar_mod", "--out", "a.onnx", "--size", "4000000"], "not enough memory; use a smaller"),
        (["compare", "resnet18_cifar_mod", "--runtimes", "tensorrt"], "unknown runtime 'tensorrt'"),
        pytest.param(
            ["compare", "resnet18_cifar_mod", "--runtimes", "eager", "cudagraph"],
            "cudagraph needs a GPU, but torch finds none",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU"),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_print_one_line_and_exit_2(arguments, message, mistake):
    mistake(arguments, message)

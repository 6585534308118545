import importlib
import json
import math
import re
import subprocess
import sys
import venv
from dataclasses import replace
from importlib import metadata

import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, control_, convert_, mod_blocks
from cnnmod.deploy.export import export
from cnnmod.deploy.parity import with_tied_scores
from cnnmod.deploy.targets.table import find_format
from conftest import trained_norms_
from small import shallow_resnet, tiny_network

EXAMPLE = torch.rand(1, 1, 8, 8)
export_module = importlib.import_module("cnnmod.deploy.export")  # cnnmod.deploy.export is the function
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
MOSTLY_ONNX = [pytest.param(kind, marks=() if kind == "onnx" else pytest.mark.slow) for kind in FORMATS]


def network(**fields):
    return trained_norms_(convert_(tiny_network(), MoDConfig(c=4, **fields), example=EXAMPLE))


@pytest.mark.parametrize("kind", MOSTLY_ONNX)
def test_file_equals_eager_for_any_batch_size_and_equal_scores(kind, tmp_path):
    """The file is named tied. The copy with equal scores, which export also writes, does not overwrite it."""
    model = network()
    path = tmp_path / f"tied{FORMATS[kind]}"
    report = export(model, EXAMPLE, path, format=kind)
    assert report.largest_error < 1e-5
    assert (report.selection_agreement, report.tied_agreement) == (1, 1)
    assert report.int8 is None
    assert report.form == ("GraphForm" if kind == "pt2" else "OnnxForm")
    assert report.weight_bytes < report.file_bytes
    if kind != "pt2":
        assert report.operators["TopK"] == len(mod_blocks(model))
    assert {file.suffix for file in tmp_path.iterdir()} == {path.suffix, *([".bin"] if kind == "openvino" else [])}
    assert report.file_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    run = find_format(kind).load(path, 1)
    for count in (1, 3):
        images = torch.rand(count, 1, 8, 8)
        logits = next(iter(run.run(images).values()))
        with torch.inference_mode():
            torch.testing.assert_close(logits, model(images), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"order": "index", "candidates": 1},
        pytest.param({"fuse_to": "original", "residual": False}, marks=pytest.mark.slow),
        pytest.param({"fuse_to": "last", "select": "random"}, marks=pytest.mark.slow),
        pytest.param({"select": "first", "identity_start": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_other_configs_equal_eager(fields, tmp_path):
    report = export(network(**fields), EXAMPLE, tmp_path / "network.onnx", dynamic_batch=False)
    assert report.largest_error < 1e-5
    selects = fields.get("select", "learned") == "learned"
    assert report.selection_agreement == report.tied_agreement == (1 if selects else None)


@pytest.mark.parametrize("kind", MOSTLY_ONNX)
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"order": "index", "scale": "input", "candidates": 2}, marks=pytest.mark.slow),
        pytest.param({"select": "first", "scale": "none"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_options_that_are_not_in_the_paper_equal_eager_in_every_format(fields, kind, tmp_path):
    model = network(fuse_to="all", **fields)
    report = export(model, EXAMPLE, tmp_path / f"network{FORMATS[kind]}")
    assert report.form == ("GraphForm" if kind == "pt2" else "OnnxForm")
    assert report.largest_error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_half_reduces_the_file_size(kind, tmp_path):
    model = trained_norms_(tiny_network(64))
    whole = export(model, EXAMPLE, tmp_path / f"whole{FORMATS[kind]}", format=kind)
    half = export(model, EXAMPLE, tmp_path / f"half{FORMATS[kind]}", format=kind, half=True)
    assert half.file_bytes < 0.65 * whole.file_bytes
    assert whole.largest_error < half.largest_error < 1e-2


def test_control_is_exported(tmp_path):
    report = export(control_(network()).eval(), EXAMPLE, tmp_path / "control.onnx")
    assert report.form is None
    assert "TopK" not in report.operators


def test_version_is_found_by_module_name():
    assert export_module._version("torch") == metadata.version("torch")
    assert export_module._version("sklearn") == metadata.version("scikit-learn")


def test_dense_network_in_training_mode_is_exported_with_one_warning(tmp_path, caplog):
    model = tiny_network().train()
    report = export(model, EXAMPLE, tmp_path / "a.pt2", format="pt2")
    assert report.form is None
    assert [record.getMessage() for record in caplog.records if record.name == "cnnmod"] == [
        "the network is in training mode; it is exported in evaluation mode"
    ]
    assert model.training


class Calls(nn.Module):
    """A convolution followed by a function."""

    def __init__(self, forward):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.given = forward

    def forward(self, images):
        return self.given(self.conv(images))


class Wrapper(nn.Module):
    """A wrapper with variable arguments, as in PEFT."""

    def __init__(self):
        super().__init__()
        self.network = Calls(lambda y: y)

    def forward(self, *args, **kwargs):
        return self.network(*args, **kwargs)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_forward_with_variable_arguments_is_exported(kind, tmp_path):
    path = tmp_path / f"network{FORMATS[kind]}"
    model = Wrapper().eval()
    export(model, EXAMPLE, path, format=kind)
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        found = find_format(kind).load(path, 1).run(images)
        torch.testing.assert_close(found["output"], model(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_network_with_a_fixed_batch_size_is_exported(kind, tmp_path):
    model = Calls(lambda y: y.reshape(2, 256)).eval()
    with pytest.raises(ValueError, match=r"does not run on an example of shape \(1, 1, 8, 8\)"):
        export(model, torch.rand(2, 1, 8, 8), tmp_path / f"network{FORMATS[kind]}", format=kind)
    assert not [*tmp_path.iterdir()]
    export(model, torch.rand(2, 1, 8, 8), tmp_path / f"network{FORMATS[kind]}", format=kind, dynamic_batch=False)


@pytest.mark.slow
def test_examples_with_gradients_or_without_variance_are_accepted(tmp_path):
    for example in (EXAMPLE.clone().requires_grad_(), torch.zeros(1, 1, 8, 8)):
        assert export(network(), example, tmp_path / "network.pt2", format="pt2").largest_error < 1e-5


class Masked(nn.Module):
    """Return infinite values where the mask is set, and NaN for a black image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))

    def forward(self, images):
        y = self.conv(images)
        return {"masked": y + self.mask, "scaled": y / y.amax((1, 2, 3), keepdim=True)}


@pytest.mark.parametrize(("kind", "half"), [("pt2", False), ("onnx", True)])
def test_intended_infinite_values_are_accepted(kind, half, tmp_path):
    report = export(Masked().eval(), EXAMPLE, tmp_path / f"network{FORMATS[kind]}", format=kind, half=half)
    assert report.largest_error < 2e-3


class TestErrors:
    def refused(self, match, tmp_path, model=None, example=EXAMPLE, name="network.onnx", error=ValueError, **given):
        with pytest.raises(error, match=match):
            export(model or network(), example, tmp_path / name, **given)
        assert not [*tmp_path.iterdir()]

    def test_invalid_arguments_raise(self, tmp_path):
        refused = self.refused
        refused("unknown format 'tflite'; the formats are onnx, openvino, pt2", tmp_path, format="tflite")
        refused(r"must be one of \.onnx, \.xml, \.pt2, not '.*network\.pb'", tmp_path, name="network.pb")
        refused(r"in format 'onnx' must be \.onnx, not '.*network\.xml'", tmp_path, name="network.xml", format="onnx")
        refused("half is supported for 'onnx', 'openvino', not", tmp_path, name="a.pt2", format="pt2", half=True)
        refused(r"in float32, not torch\.float64 \(1, 1, 8, 8\)", tmp_path, example=EXAMPLE.double())
        refused(r"in float32, not torch\.float32 \(1, 8, 8\)", tmp_path, example=EXAMPLE[0])
        refused(r"\(0, 1, 8, 8\), which is empty", tmp_path, example=EXAMPLE[:0])
        refused("example has values that are not finite", tmp_path, example=EXAMPLE * math.nan)
        refused("example must be images with values, not a meta tensor", tmp_path, example=EXAMPLE.to("meta"))
        refused(r"example must be images \(N, C, H, W\) in float32, not ndarray", tmp_path, example=EXAMPLE.numpy())
        refused(r"does not run on an example of shape \(1, 3, 8, 8\)", tmp_path, example=torch.rand(1, 3, 8, 8))
        refused(r"the network must be in float32, not torch\.bfloat16", tmp_path, model=network().bfloat16())
        refused("does not exist", tmp_path, name="nowhere/network.onnx", error=FileNotFoundError)

    def test_wrong_file_raises(self, tmp_path, monkeypatch):
        plain = export_module.check_parity
        monkeypatch.setattr(
            export_module, "check_parity", lambda *args: replace(plain(*args), largest_error=0.5, seed=1)
        )
        self.refused(r"an error of 5\.0e-01 on the input of seed 1, and at most 1e-04 is accepted", tmp_path)

    @pytest.mark.parametrize("kind", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
    def test_non_finite_weights_raise(self, kind, tmp_path):
        def broken(name, value):
            model = trained_norms_(convert_(shallow_resnet(), MoDConfig(c=4), example=EXAMPLE))
            model.state_dict(keep_vars=True)[name].data.flatten()[0] = value
            return model

        for name, value, message in (
            ("layer1.0.conv1.weight", math.nan, r"^ResNet has NaN weights in layer1\.0\.conv1 \(weight\)$"),
            ("fc.bias", -math.inf, r"^ResNet has infinite weights in fc \(bias\)$"),
            ("layer1.0.bn1.running_var", math.nan, r"^ResNet has NaN weights in layer1\.0\.bn1 \(running_var\)$"),
            ("bn1.running_mean", math.inf, r"^ResNet has infinite weights in bn1 \(running_mean\)$"),
        ):
            self.refused(message, tmp_path, broken(name, value), name=f"a{FORMATS[kind]}", format=kind)
        alone = Calls(lambda y: y)
        alone.scale = nn.Parameter(torch.tensor(math.nan))
        message = r"^Calls has NaN weights in Calls \(scale\)$"
        self.refused(message, tmp_path, alone, name=f"a{FORMATS[kind]}", format=kind)
        meta = shallow_resnet().to("meta")
        message = r"^ResNet has no weights in conv1 \(weight\): they are on the meta device$"
        self.refused(message, tmp_path, meta, name=f"a{FORMATS[kind]}", format=kind)

    def test_nan_outputs_raise(self, tmp_path):
        model = Calls(lambda y: {"a": y, "b": y * math.nan})
        self.refused("the network itself returns NaN in 'b' on the input of seed 0$", tmp_path, model)

    def test_weights_too_large_for_16_bits_raise(self, tmp_path):
        model = Calls(lambda y: y)
        nn.init.constant_(model.conv.weight, 1e6)
        message = r"^half supports weights up to 65504, but conv\.weight has 1\.0e\+06$"
        self.refused(message, tmp_path, model, half=True)

    def test_dynamic_batch_with_a_fixed_batch_size_raises(self, tmp_path):
        model = Calls(lambda y: y.reshape(2, -1))
        message = "^Calls does not support a dynamic batch: .*export it with dynamic_batch=False"
        self.refused(message, tmp_path, model, name="a.pt2", format="pt2")

    def test_error_has_the_reason_of_the_exporter(self, tmp_path):
        """The error does not include the advice of torch.onnx."""
        model = Calls(lambda y: y if y.sum() > 0 else -y)
        with pytest.raises(ValueError, match=r"cannot be exported: Calls \(Calls\): Could not guard on data") as caught:
            find_format("onnx").write(model, EXAMPLE, tmp_path / "network.onnx", dynamic_batch=True)
        assert "step" not in str(caught.value)

    def test_missing_runtime_raises(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        match = re.escape("onnxruntime needs onnxruntime; in a checkout of cnnmod, run: pip install '.[deploy]'")
        self.refused(match, tmp_path, error=ModuleNotFoundError)


@pytest.mark.slow
def test_onnx_file_runs_without_torch_and_cnnmod(tmp_path):
    """The environment has onnxruntime but not torch."""
    model = network()
    export(model, EXAMPLE, tmp_path / "network.onnx")
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "onnxruntime"], check=True)
    script = """
import importlib.util, json, sys
import numpy, onnxruntime
assert not any(importlib.util.find_spec(name) for name in ("torch", "cnnmod", "onnx"))
session = onnxruntime.InferenceSession(sys.argv[1])
print(json.dumps(session.run(None, {"images": numpy.full((2, 1, 8, 8), 0.5, "float32")})[0].tolist()))
"""
    command = [python, "-c", script, str(tmp_path / "network.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with torch.inference_mode():
        expected = model(torch.full((2, 1, 8, 8), 0.5))
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, atol=1e-5, rtol=1e-4)


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_parametrized_selector_is_exported(kind, tmp_path):
    """The parametrization is part of the file, and tie-breaking is verified."""
    model = network()
    for block in mod_blocks(model).values():
        nn.utils.parametrize.register_parametrization(block.selector.expand, "weight", Half())
    for block in mod_blocks(with_tied_scores(model)).values():
        logit_NC = block.selector(torch.rand(2, block.channels, 8, 8))
        assert logit_NC.unique(dim=1).shape[1] < block.channels
    report = export(model, EXAMPLE, tmp_path / f"network{FORMATS[kind]}", format=kind)
    assert (report.form, report.selection_agreement, report.tied_agreement) == ("OnnxForm", 1, 1)

"""Files say what images they take, and can normalize pixels themselves."""

import json

import numpy as np
import pytest
import torch

from cnnmod import MoDConfig, convert_, export, mod_blocks
from conftest import trained_norms_
from small import tiny_network

EXAMPLE = torch.rand(2, 1, 8, 8)
STATISTICS = {"mean": [0.4], "std": [0.3], "classes": [f"digit {number}" for number in range(10)]}
OPENVINO = pytest.param("network.xml", marks=pytest.mark.slow)
EXPECTED = {
    "input": "float32 NCHW, normalized",
    "input_size": "[8, 8]",
    "mean": "[0.4]",
    "std": "[0.3]",
    "color_order": "gray",
    "class_names": json.dumps(STATISTICS["classes"]),
}


def network():
    return trained_norms_(convert_(tiny_network(), MoDConfig(c=4), example=EXAMPLE))


def opened(path):
    """Return the metadata of a file, and a function that runs it."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return session.get_modelmeta().custom_metadata_map, lambda x: session.run(["logits"], {"images": x})[0]
    import openvino

    model = openvino.Core().read_model(path)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    metadata = dict(model.get_rt_info("cnnmod").value)
    return metadata, lambda x: compiled({"images": x})["logits"]


@pytest.mark.parametrize("name", ["network.onnx", OPENVINO])
def test_file_has_metadata(name, tmp_path):
    report = export(network(), EXAMPLE, tmp_path / name, **STATISTICS)
    metadata, _ = opened(tmp_path / name)
    assert report.metadata == metadata == EXPECTED
    assert "class_names" in repr(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["network.onnx", OPENVINO])
@pytest.mark.parametrize("half", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dynamic_batch", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_file_normalizes_pixels(name, half, dynamic_batch, tmp_path):
    model, path = network(), tmp_path / name
    report = export(model, EXAMPLE, path, **STATISTICS, preprocessing=True, half=half, dynamic_batch=dynamic_batch)
    assert (report.selection_agreement, report.tied_agreement) == (1, 1)
    metadata, run = opened(path)
    assert metadata == EXPECTED | {"input": "uint8 NHWC, 0 to 255"}
    assert {file.suffix for file in tmp_path.iterdir()} <= {".onnx", ".xml", ".bin"}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    with torch.inference_mode():
        expected = model((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.4) / 0.3)
    tolerance = 2e-2 if half else 1e-4
    np.testing.assert_allclose(run(pixels), expected.numpy(), atol=tolerance * float(expected.abs().max()))
    if name.endswith(".xml"):
        assert "DisablePrecisionConversion" in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["network.onnx", "network.xml"])
def test_int8_file_normalizes_pixels(name, tmp_path):
    images = torch.rand(16, 1, 8, 8)
    report = export(network(), EXAMPLE, tmp_path / name, **STATISTICS, preprocessing=True, int8=images)
    assert report.int8 is not None
    assert report.int8.images == 16
    assert report.int8.top1 > 0.9
    metadata, run = opened(tmp_path / name)
    assert metadata["input"] == "uint8 NHWC, 0 to 255"
    assert run(np.zeros((3, 8, 8, 1), np.uint8)).shape == (3, 10)


def test_wrong_normalization_raises(tmp_path, monkeypatch):
    """The parity check runs the file on pixels."""
    from cnnmod.deploy import describe

    plain = describe._normalize_onnx_

    def wrong(graph, description):
        plain(graph, description)
        graph.node[2].op_type = "Div"

    monkeypatch.setattr(describe, "_normalize_onnx_", wrong)
    with pytest.raises(ValueError, match="the file does not compute the same as the network"):
        export(network(), EXAMPLE, tmp_path / "network.onnx", **STATISTICS, preprocessing=True)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"std": None}, "mean and std must be given together"),
        ({"mean": None, "std": None, "preprocessing": True}, "preprocessing needs mean and std"),
        ({"mean": [0.1, 0.2, 0.3]}, r"mean must have one number for each of the 1 channels, not \(0.1, 0.2, 0.3\)"),
        ({"std": [0.0]}, r"std must be > 0, not \(0.0,\)"),
        ({"classes": "digits"}, "classes must be a list of names, not 'digits'"),
        ({"classes": ["0", "1"]}, r"classes has 2 names, but the network returns logits of shape \(2, 10\)"),
    ],
    ids=str,
)
def test_invalid_descriptions_raise(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(network(), EXAMPLE, tmp_path / "network.onnx", **STATISTICS | changes)
    assert not [*tmp_path.iterdir()]


def test_preprocessing_in_pt2_raises(tmp_path):
    with pytest.raises(ValueError, match=r"^preprocessing is supported for 'onnx', 'openvino', not for 'pt2'$"):
        export(network(), EXAMPLE, tmp_path / "network.pt2", **STATISTICS, preprocessing=True)


@pytest.mark.slow
def test_parity_selects_the_same_channels_as_the_network(tmp_path):
    report = export(network(), EXAMPLE, tmp_path / "network.onnx", **STATISTICS, preprocessing=True)
    assert report.operators["TopK"] == len(mod_blocks(network())) == 1
    assert report.largest_error < 1e-5

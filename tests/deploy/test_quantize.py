"""Quantize files to INT8 and run them in their runtimes."""

import logging
import sys

import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, control_, convert_, mod_blocks
from cnnmod.deploy.export import export
from cnnmod.deploy.lower import lower
from cnnmod.deploy.parity import check_agreement
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.start import start
from cnnmod.deploy.targets.table import find_format
from conftest import trained_norms_
from small import tiny_network

KINDS = {"onnx": ".onnx", "openvino": ".xml"}
EXAMPLE = torch.rand(2, 1, 8, 8)
IMAGES = torch.rand(16, 1, 8, 8)
QUANTIZED = ("DequantizeLinear", "QuantizeLinear", "FakeQuantize")


def network(**fields):
    return trained_norms_(convert_(tiny_network(64), MoDConfig(c=4, **fields), example=EXAMPLE))


def int8_of(model, kind, folder, dynamic_batch=True):
    source, path = folder / f"float{KINDS[kind]}", folder / f"int8{KINDS[kind]}"
    target = find_format(kind)
    lowered = lower(model, target.name, example=EXAMPLE)
    target.write_for_int8(lowered, EXAMPLE, source, dynamic_batch=dynamic_batch)
    target.quantize(source, path, IMAGES)
    return path


@pytest.fixture(scope="module")
def int8_files(tmp_path_factory):
    """A network and its INT8 file in each format."""
    torch.manual_seed(0)
    model = network()
    return model, {kind: int8_of(model, kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def graph_of(path):
    """Return the type of each operator, the operators that it reads, and the operators with the selected channels."""
    if path.suffix == ".onnx":
        import onnx

        nodes = onnx.load(path).graph.node
        makers = {output: node.name for node in nodes for output in node.output}
        operators = {node.name: node.op_type for node in nodes}
        reads = {node.name: [makers[read] for read in node.input if read in makers] for node in nodes}
        selects = {output: node.name for node in nodes for output in node.output if output.endswith(SELECTED)}
    else:
        import openvino

        nodes = openvino.Core().read_model(path).get_ops()
        operators = {node.get_friendly_name(): node.get_type_name() for node in nodes}
        reads = {
            node.get_friendly_name(): [read.get_node().get_friendly_name() for read in node.input_values()]
            for node in nodes
        }
        selects = {
            name: node.get_friendly_name()
            for node in nodes
            for output in node.outputs()
            for name in output.get_names()
            if name.endswith(SELECTED)
        }
    return operators, reads, selects


def selector_of(operators, reads, top):
    """Return the names of the operators from pooling to the top-k."""
    found, left = set(), [top]
    while left:
        for read in reads[left.pop()]:
            if read not in found and operators[read] != "Constant":
                found.add(read)
                if operators[read] != "ReduceMean":
                    left.append(read)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_selectors_stay_in_float_and_convolutions_are_quantized(kind, int8_files):
    model, paths = int8_files
    check_selectors(model, paths[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "fields", [{"order": "index", "candidates": 1}, {"fuse_to": "original", "identity_start": True}], ids=str
)
def test_selectors_stay_in_float_with_other_configs(kind, fields, tmp_path):
    model = network(**fields)
    check_selectors(model, int8_of(model, kind, tmp_path))


def check_selectors(model, path):
    operators, reads, selects = graph_of(path)
    assert selects.keys() == {f"{block}{SELECTED}" for block in mod_blocks(model)}
    selectors = set()
    for top in selects.values():
        between = selector_of(operators, reads, top)
        selectors |= between
        kinds = [operators[name] for name in between]
        assert {"ReduceMean", "Relu"} <= {*kinds}
        assert kinds.count("Conv") + kinds.count("Convolution") == 2
        assert not {*kinds} & {*QUANTIZED}
    for name, operator in operators.items():
        if operator in ("Conv", "Convolution") and name not in selectors:
            assert operators[reads[name][0]] in (*QUANTIZED, "Reshape", "Transpose"), name  # the input is quantized
        if operator == "Sigmoid":
            assert not {operators[read] for read in reads[name]} & set(QUANTIZED)


@pytest.mark.parametrize("kind", KINDS)
def test_int8_file_agrees_with_the_network(kind, int8_files):
    model, paths = int8_files
    agreement = check_agreement(model, find_format(kind).load(paths[kind], 1, selected=True).run, [IMAGES])
    assert agreement.images == 16
    assert agreement.top1 is not None
    assert agreement.top1 > 0.8
    assert agreement.selection > 0.9
    # The scores of a random network are close to each other.
    assert 0.5 < agreement.selection_in_order <= agreement.selection


@pytest.mark.parametrize("kind", KINDS)
def test_narrow_blocks_read_a_slice_of_the_quantized_feature_map(kind, tmp_path):
    """A slice of a float feature map, or a map that is split in two, would be slower."""
    model = trained_norms_(convert_(tiny_network(64), MoDConfig.narrow(4), example=EXAMPLE))
    path = tmp_path / f"network{KINDS[kind]}"
    report = export(model, EXAMPLE, path, format=kind, int8=IMAGES)
    operators, reads, _ = graph_of(path)
    slices = [name for name, operator in operators.items() if operator in ("Slice", "StridedSlice")]
    assert len(slices) == len(mod_blocks(model)) == 1
    assert operators[reads[slices[0]][0]] in QUANTIZED
    convolutions = [name for name, operator in operators.items() if operator in ("Conv", "Convolution")]
    assert len(convolutions) == sum(type(layer) is nn.Conv2d for layer in model.modules())
    assert report.selection_agreement is report.tied_agreement is None
    assert report.int8 is not None
    assert report.int8.top1 is not None
    assert report.int8.top1 > 0.8


def test_blocks_that_select_read_split_feature_maps_in_onnx_files(tmp_path):
    model = network(candidates=1)
    operators, _, _ = graph_of(int8_of(model, "onnx", tmp_path))
    convolutions = [name for name, operator in operators.items() if operator == "Conv"]
    assert len(convolutions) > sum(type(layer) is nn.Conv2d for layer in model.modules())
    assert "Slice" not in operators.values()


def test_timing_quantizes_the_file_that_export_quantizes(monkeypatch):
    target, written = find_format("onnx"), []
    plain = type(target).write_for_int8

    def write_for_int8(self, *args, **kwargs):
        written.append(runtime)
        plain(self, *args, **kwargs)

    monkeypatch.setattr(type(target), "write_for_int8", write_for_int8)
    for runtime in ("onnxruntime", "onnxruntime-int8"):
        start(network(), runtime, EXAMPLE)
    assert written == ["onnxruntime-int8"]


@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_export_writes_an_int8_file_and_reports_it(kind, int8_files, tmp_path, capsys):
    model, paths = int8_files
    path = tmp_path / f"network{KINDS[kind]}"
    handlers = [*logging.getLogger().handlers]
    report = export(model, EXAMPLE, path, format=kind, int8=IMAGES, dynamic_batch=False)
    assert logging.getLogger().handlers == handlers
    assert capsys.readouterr().out == ""
    assert report.largest_error < 1e-5
    assert (report.selection_agreement, report.tied_agreement) == (1, 1)
    assert report.int8 is not None
    assert report.int8.images == 16
    assert report.int8.selection > 0.8
    assert report.file_bytes < sum(file.stat().st_size for file in paths[kind].parent.glob("float.*"))
    assert set(report.operators) & set(QUANTIZED)
    assert ("nncf" in report.versions) == (kind == "openvino")
    names = {file.name for file in tmp_path.iterdir() if file.stem == "network"}
    assert names == ({"network.onnx"} if kind == "onnx" else {"network.xml", "network.bin"})
    assert b"float-" not in path.read_bytes()


def test_calibration_images_may_have_gradients_or_any_memory_format(tmp_path):
    turned = torch.rand(4, 8, 8, 1).permute(0, 3, 1, 2)
    for images in (turned.requires_grad_(), IMAGES.to(memory_format=torch.channels_last)):
        report = export(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval(), EXAMPLE, tmp_path / "a.onnx", int8=images)
        assert report.int8 is not None
        assert report.int8.images == len(images)


@pytest.mark.slow
def test_controls_and_non_classifiers_are_quantized(tmp_path):
    report = export(control_(network()).eval(), EXAMPLE, tmp_path / "control.onnx", int8=IMAGES)
    assert report.int8 is not None
    assert report.int8.selection == 1
    assert "TopK" not in report.operators
    maps = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()).eval()
    report = export(maps, EXAMPLE, tmp_path / "maps.onnx", int8=IMAGES)
    assert report.int8 is not None
    assert report.int8.top1 is None


class TestErrors:
    def refused(self, match, tmp_path, error=ValueError, name="network.onnx", **given):
        with pytest.raises(error, match=match):
            export(tiny_network().eval(), EXAMPLE, tmp_path / name, **given)
        assert not [*tmp_path.iterdir()]

    def test_invalid_arguments_raise(self, tmp_path):
        refused = self.refused
        refused("int8 is supported for 'onnx', 'openvino', not", tmp_path, name="a.pt2", format="pt2", int8=IMAGES)
        refused("half and int8 cannot be combined", tmp_path, half=True, int8=IMAGES)
        refused(r"\(N, 1, 8, 8\) in float32, not torch\.float64 \(16, 1, 8, 8\)", tmp_path, int8=IMAGES.double())
        refused(r"\(N, 1, 8, 8\) in float32, not torch\.float32 \(16, 1, 4, 4\)", tmp_path, int8=IMAGES[:, :, :4, :4])
        refused(r"\(N, 1, 8, 8\) in float32, not torch\.float32 \(0, 1, 8, 8\)", tmp_path, int8=IMAGES[:0])
        refused(r"int8 must be images \(N, 1, 8, 8\) in float32, not bool", tmp_path, int8=True)
        refused("values that are not finite", tmp_path, int8=IMAGES / 0)
        refused(r"in float32, not torch\.uint8 \(16, 1, 8, 8\)", tmp_path, int8=(IMAGES * 255).byte())
        refused(r"in float32, not torch\.float32 \(16, 3, 8, 8\)", tmp_path, int8=IMAGES.expand(-1, 3, -1, -1))
        refused(r"in float32, not torch\.float32 \(1, 8, 8\)", tmp_path, int8=IMAGES[0])
        refused(r"in float32, not torch\.float32 \(\)", tmp_path, int8=torch.tensor(0.0))
        refused("int8 must be images with values, not a meta tensor", tmp_path, int8=IMAGES.to("meta"))
        refused("a multiple of the file's batch size 2, not 3", tmp_path, int8=IMAGES[:3], dynamic_batch=False)

    @pytest.mark.parametrize("package", ["nncf", "openvino"])
    def test_missing_quantizer_raises(self, package, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, package, None)
        match = rf"needs {package}; in a checkout of cnnmod, run: pip install '\.\[deploy\]'"
        self.refused(match, tmp_path, ModuleNotFoundError, "network.xml", format="openvino", int8=IMAGES)


def test_non_finite_weights_raise(tmp_path):
    model = network()
    model.blocks[1].conv_block.conv1.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^Sequential has NaN weights in blocks\.1\.conv_block\.conv1 \(weight\)$"):
        export(model, EXAMPLE, tmp_path / "network.onnx", int8=IMAGES)
    assert not [*tmp_path.iterdir()]
    with pytest.raises(ValueError, match=r"^Sequential has NaN weights in blocks\.1\.conv_block\.conv1 \(weight\)$"):
        start(model, "onnxruntime-int8", EXAMPLE)

import logging

import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, convert_, export, mod_blocks
from cnnmod.deploy.lower import lower
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.targets.table import find_format
from cnnmod.method.record import recorded_selection
from cnnmod.networks import build
from conftest import trained_norms_
from small import tiny_network

EXAMPLE = torch.rand(1, 1, 8, 8)
FORMATS = ["onnx", pytest.param("openvino", marks=pytest.mark.slow), "pt2"]


def network(**fields):
    return trained_norms_(convert_(tiny_network(), MoDConfig(c=4, reduction=2, **fields), example=EXAMPLE))


def written(model, folder, kind="onnx", example=EXAMPLE, dynamic_batch=True, half=False):
    path = folder / f"network{find_format(kind).suffix}"
    lowered = lower(model, find_format(kind).name, example=example)
    find_format(kind).write(lowered, example, path, dynamic_batch=dynamic_batch, half=half)
    return path


def loaded(path):
    import onnx

    return onnx.load(path)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    """A network and its file for any batch size."""
    torch.manual_seed(0)
    model = network()
    return model, written(model, tmp_path_factory.mktemp("onnx"))


def test_onnx_graph_is_static_and_has_no_metadata(onnx_file):
    import onnx

    model, path = onnx_file
    proto = loaded(path)
    onnx.checker.check_model(proto, full_check=True)
    operators = [node.op_type for node in proto.graph.node]
    assert operators.count("TopK") == len(mod_blocks(model))
    assert not {"ScatterND", "ScatterElements", "Loop", "If", "BatchNormalization"} & {*operators}
    initial = {one.name for one in proto.graph.initializer}
    for node in proto.graph.node:
        assert node.op_type != "TopK" or node.input[1] in initial
        assert not node.metadata_props
    assert not proto.metadata_props
    assert [*path.parent.iterdir()] == [path]  # weights are not in a second file
    assert b"site-packages" not in path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("onnx", "score"),
        *(
            pytest.param(kind, order, marks=pytest.mark.slow)
            for kind, order in (
                ("pt2", "index"),
                ("onnx", "index"),
                ("openvino", "score"),
                ("openvino", "index"),
                ("pt2", "score"),
            )
        ),
    ],
)
def test_selected_channels_are_named_after_their_blocks(order, kind, tmp_path):
    """One block name is a prefix of another, and with order "index" a sort adds a second TopK."""
    model = build("resnet18_cifar", layers=(1, 12, 1, 1), channels=(16, 16, 16, 16), in_chans=1)
    model = trained_norms_(convert_(model, MoDConfig(c=4, reduction=2, order=order), example=EXAMPLE))
    assert {"layer2.1", "layer2.11"} <= mod_blocks(model).keys()
    x_NCHW = torch.rand(3, 1, 8, 8)
    with torch.inference_mode(), recorded_selection(model) as selected:
        model(x_NCHW)
    found = find_format(kind).load(written(model, tmp_path, kind), 1, selected=True).run(x_NCHW)
    assert {name for name in found if name.endswith(SELECTED)} == {f"{block}{SELECTED}" for block in selected}
    for block, (index_NK,) in selected.items():
        theirs_NK = found[f"{block}{SELECTED}"].flatten(1)
        if order == "index":
            theirs_NK = theirs_NK.sort(1).values
        assert torch.equal(theirs_NK.long(), index_NK), block


@pytest.mark.parametrize("kind", FORMATS)
def test_fixed_batch_size_is_enforced(kind, tmp_path):
    model, images = network(), torch.rand(3, 1, 8, 8)
    run = find_format(kind).load(written(model, tmp_path, kind, images, dynamic_batch=False), 1).run
    with torch.inference_mode():
        torch.testing.assert_close(next(iter(run(images).values())), model(images), atol=1e-5, rtol=1e-4)
    with pytest.raises(Exception, match=r"(?i)dimension|shape|size"):  # each runtime raises its own exception
        run(images[:2])


def test_dynamic_batch_dimension_is_named(onnx_file, tmp_path):
    for dynamic in (True, False):
        path = onnx_file[1] if dynamic else written(nn.Conv2d(1, 2, 3).eval(), tmp_path, dynamic_batch=False)
        (images,) = loaded(path).graph.input
        assert images.name == "images"
        first, *rest = images.type.tensor_type.shape.dim
        assert (first.dim_param, first.dim_value) == (("batch", 0) if dynamic else ("", 1))
        assert [one.dim_value for one in rest] == [1, 8, 8]


def test_half_stores_only_matrices_in_16_bits(tmp_path):
    from onnx import TensorProto

    graph = loaded(written(network(), tmp_path, half=True)).graph
    halves = [one for one in graph.initializer if one.data_type == TensorProto.FLOAT16]
    assert {len(one.dims) > 1 for one in halves} == {True}
    floats = [one for one in graph.initializer if one.data_type == TensorProto.FLOAT]
    assert floats
    assert {len(one.dims) > 1 for one in floats} == {False}
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in {one.name for one in halves}]
    assert [node.op_type for node in graph.node[: len(halves)]] == ["Cast"] * len(halves)
    assert sorted(node.input[0] for node in casts) == sorted(one.name for one in halves)


def test_logger_level_of_the_exporter_is_restored(tmp_path):
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        written(nn.Conv2d(1, 2, 3).eval(), tmp_path)
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(before)


class CachedGrid(nn.Module):
    """A network that caches a grid for each image size."""

    def __init__(self):
        super().__init__()
        self.conv, self.grid, self.grids = nn.Conv2d(3, 4, 1), None, {}

    def forward(self, x):
        if self.grid is None or self.grid.shape != x.shape[-1:]:
            self.grid = torch.arange(x.shape[-1], device=x.device) / 10
            self.grids[x.shape[-1]] = self.grid
        return self.conv(x) + self.grids[x.shape[-1]]


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_cached_tensors_of_the_exporter_are_removed(kind, tmp_path):
    model, images = CachedGrid().eval(), torch.rand(2, 3, 8, 8)
    for name in ("first", "second"):
        find_format(kind).write(model, images, tmp_path / f"{name}{find_format(kind).suffix}", dynamic_batch=True)
        assert model.grid is None
        assert not model.grids
    assert model(images).shape == (2, 4, 8, 8)
    report = export(model, images, tmp_path / f"model{find_format(kind).suffix}", format=kind)
    assert report.largest_error < 1e-5

import re

import pytest
import torch

from cnnmod import MoDConfig, convert_, mod_blocks
from cnnmod.deploy.lower import lower
from cnnmod.deploy.targets.table import TARGETS
from conftest import trained_norms_
from small import tiny_network

EXAMPLE = torch.rand(1, 1, 8, 8)


def network():
    return trained_norms_(convert_(tiny_network(), MoDConfig(c=4), example=EXAMPLE))


def written(model, folder, half=False):
    """Write an OpenVINO file, without the comparisons of `export`."""
    path = folder / "network.xml"
    lowered = lower(model, "openvino", example=EXAMPLE)
    TARGETS["openvino"].write(lowered, EXAMPLE, path, dynamic_batch=True, half=half)
    return path


@pytest.mark.parametrize("half", [pytest.param(False, marks=pytest.mark.slow), True])
def test_openvino_writes_two_files_with_stable_topk(half, tmp_path):
    """The temporary ONNX file is deleted, and every TopK is stable."""
    path = written(network(), tmp_path, half)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["network.bin", "network.xml"]
    text = path.read_text(encoding="utf-8")
    layers = re.findall(r'type="TopK".*?/>', text, re.DOTALL)
    assert len(layers) == len(mod_blocks(network()))
    assert all('stable="true"' in layer for layer in layers)
    assert ('element_type="f16"' in text) == half


def test_openvino_keeps_selectors_in_float32_under_bfloat16(tmp_path):
    """The precisions are read from the graph that the runtime executes."""
    import openvino

    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    model = network()
    path = written(model, tmp_path)
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    given = {}
    for node in compiled.get_runtime_model().get_ops():
        kind = node.get_rt_info()["layerType"].astype(str)
        precisions = [
            read.get_node().get_rt_info()["outputPrecisions"].astype(str).split(",")[0] for read in node.input_values()
        ]
        given.setdefault(kind, []).append(precisions[:1])
    blocks = len(mod_blocks(model))
    assert given["TopK"] == [["f32"]] * blocks
    assert given["Convolution"].count(["f32"]) == 2 * blocks
    assert given["Convolution"].count(["bf16"]) > 2 * blocks

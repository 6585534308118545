import numpy
import pytest
import torch

from cnnmod import MoDConfig, compare, convert_
from cnnmod.deploy.start import start
from cnnmod.deploy.targets.table import runtimes
from conftest import trained_norms_
from small import tiny_network

MARKS = {
    "cudagraph": pytest.mark.skipif(True, reason="needs a GPU; see targets/test_cudagraph.py"),
    **dict.fromkeys(("compile", "onnxruntime-int8", "openvino", "openvino-bf16", "openvino-int8"), pytest.mark.slow),
}


@pytest.mark.parametrize("runtime", [pytest.param(name, marks=MARKS.get(name, ())) for name in runtimes()])
def test_every_runtime_equals_eager(runtime):
    images = torch.rand(2, 1, 8, 8)
    model = trained_norms_(convert_(tiny_network(), MoDConfig(c=4), example=images))
    with torch.inference_mode():
        expected = model(images)
    output = start(model, runtime, images)(images)
    logits = output if isinstance(output, torch.Tensor) else torch.from_numpy(numpy.array(output[0]))
    tolerance = 0.1 if runtime == "openvino-bf16" else 0.3 if runtime.endswith("-int8") else 1e-5
    torch.testing.assert_close(logits, expected, atol=tolerance * expected.abs().max().item(), rtol=0)


@pytest.mark.slow
def test_compare_measures_all_rows_in_each_runtime():
    images = torch.rand(1, 1, 8, 8)
    models = {"dense": tiny_network(), "mod": convert_(tiny_network(), MoDConfig(c=4), example=images)}
    comparison = compare(models, images, runtimes=("eager", "onnxruntime"), batch_sizes=(2,), rounds=2)
    assert comparison.conditions == [("eager", 2), ("onnxruntime", 2)]
    for row in comparison.rows:
        assert [one.peak_memory_mib is None for one in row.measurements] == [False, True]

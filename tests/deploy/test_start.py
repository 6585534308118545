import numpy
import pytest
import torch

from cnnmod import MoDConfig, compare, convert_, lower
from cnnmod.deploy.start import start
from cnnmod.deploy.targets.table import runtimes
from conftest import trained_norms_
from small import tiny_network


@pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("compile", "openvino-bf16", "openvino-int8") else ())
        for name in runtimes()
    ],
)
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
def test_ten_networks_of_one_class_are_compiled():
    """By default, torch compiles the forward of a class at most eight times."""
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for channels in range(1, 11):
        start(torch.nn.Sequential(torch.nn.Conv2d(1, channels, 1)), "compile", torch.rand(1, 1, 2, 2))
    assert graphs["unique_graphs"] == before + 10


@pytest.mark.slow
def test_compiled_network_is_one_graph():
    images = torch.rand(2, 1, 8, 8)
    model = trained_norms_(convert_(tiny_network(), MoDConfig(c=4), example=images))
    compiled = torch.compile(lower(model, "compile", example=images), fullgraph=True)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_compare_measures_all_rows_in_each_runtime():
    images = torch.rand(1, 1, 8, 8)
    models = {"dense": tiny_network(), "mod": convert_(tiny_network(), MoDConfig(c=4), example=images)}
    comparison = compare(models, images, runtimes=("eager", "onnxruntime"), batch_sizes=(2,), rounds=2)
    assert comparison.conditions == [("eager", 2), ("onnxruntime", 2)]
    for row in comparison.rows:
        assert [one.peak_memory_mib is None for one in row.measurements] == [False, True]

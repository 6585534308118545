import pytest
import torch

from cnnmod import MoDConfig, convert_, lower
from cnnmod.deploy.start import start
from conftest import trained_norms_
from small import tiny_network


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

import copy

import pytest
import torch

from cnnmod import MoDConfig, convert_, lower
from cnnmod.deploy import start
from cnnmod.deploy.targets.compile import Replayed, mode_for
from conftest import trained_norms_
from small import tiny_network

IMAGES = torch.rand(2, 1, 8, 8)


def test_gpu_uses_cuda_graphs():
    assert mode_for(torch.device("cuda")) == "reduce-overhead"
    assert mode_for(torch.device("cpu")) is None


def test_outputs_of_a_replayed_network_are_copies():
    memory = torch.zeros(2, 1, 8, 8)
    run = Replayed(memory.copy_)
    first, second = run(IMAGES), run(IMAGES + 1)
    assert torch.equal(first, IMAGES)
    assert torch.equal(second, IMAGES + 1)


@pytest.mark.parametrize("fields", [{}, {"candidates": 2, "fuse_to": "last"}], ids=str)
def test_network_is_one_graph_and_is_compiled_once(fields):
    counters = torch._dynamo.utils.counters
    model = trained_norms_(convert_(tiny_network(), MoDConfig(c=4, **fields), example=IMAGES))
    compiled = torch.compile(lower(model, "compile", example=IMAGES), dynamic=False, backend="aot_eager")
    before, breaks = counters["stats"]["unique_graphs"], copy.copy(counters["graph_break"])
    for images in torch.rand(4, 2, 1, 8, 8):
        with torch.inference_mode():
            torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] == before + 1
    assert counters["graph_break"] == breaks


@pytest.mark.slow
def test_started_network_is_not_compiled_again():
    stats = torch._dynamo.utils.counters["stats"]
    model = trained_norms_(convert_(tiny_network(), MoDConfig(c=4), example=IMAGES))
    before = stats["unique_graphs"]
    run = start(model, "compile", IMAGES)
    for _ in range(5):
        run(torch.rand_like(IMAGES))
    assert stats["unique_graphs"] == before + 1


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

"""The form, with its kernels on the CPU. `cuda_cases.py` checks the kernels on a GPU."""

import logging
import sys

import pytest
import torch
from cuda_cases import run_cases
from host_kernels import H100, HAS_COMPILER, Host
from torch import nn

from cnnmod import MoDBlock, MoDConfig, convert_, lower, mod_blocks
from cnnmod.deploy.cuda import form as cuda_form
from cnnmod.deploy.cuda.form import CudaForm, has_kernels
from cnnmod.deploy.fused import is_compiled
from cnnmod.deploy.targets.eager import EagerTarget
from conftest import trained_norms_
from matrix import combinations
from small import tiny_network

FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no g++ here")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


class HostForm(CudaForm):
    """The form with its kernels on the CPU."""

    device_type = "cpu"

    @classmethod
    def runs_on(cls, device):
        return True

    def run(self, x_NCHW, arguments):
        host = Host()
        host.mod_block_(x_NCHW, *arguments)
        self.names = host.names


@pytest.fixture(autouse=True)
def _limits(monkeypatch):
    monkeypatch.setattr(cuda_form, "limits", lambda device: H100)


def pair(config=MoDConfig(), channels=96, k=6, layers=None):
    """Return a MoD block and its form."""
    layers = layers or [nn.Conv2d(k, 5, 1), nn.ReLU(), nn.Conv2d(5, k, 3, padding=1)]
    block = MoDBlock(nn.Sequential(*layers), channels, k, config).eval().requires_grad_(False)
    if block.gain_K is not None:
        block.gain_K.uniform_(0.5, 2)
    assert HostForm.accepts(block)
    return block, HostForm(block).eval().requires_grad_(False)


def both(block, form, x_NCHW, in_kernels=True):
    """Return the results of the form and of the block, and check whether the kernels computed the former."""
    form.names = []
    with torch.inference_mode():
        ours, theirs = form(x_NCHW.clone(memory_format=torch.preserve_format)), block(x_NCHW)
    assert bool(form.names) == in_kernels
    return ours, theirs


@needs_compiler
@pytest.mark.parametrize(
    "fields",
    combinations(
        memory_format=tuple(FORMATS.values()),
        order=("score", "index"),
        fuse_to=("first", "last", "original"),
        candidates=(None, 2),
        identity_start=(False, True),
    ),
    ids=str,
)
def test_equals_the_training_form(fields):
    memory_format = fields.pop("memory_format")
    block, form = pair(MoDConfig(**fields))
    x_NCHW = torch.randn(3, 96, 9, 7).contiguous(memory_format=memory_format)
    ours, theirs = both(block, form, x_NCHW)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert ours.stride() == x_NCHW.stride()


@needs_compiler
@pytest.mark.parametrize("order", ["score", "index"])
def test_ties_go_to_the_lower_channel(order):
    block, form = pair(MoDConfig(order=order))
    expand = block.selector.expand.weight
    for tied in (expand[torch.arange(96) // 4].clone(), torch.zeros_like(expand)):
        expand.copy_(tied)
        torch.testing.assert_close(*both(block, form, torch.randn(3, 96, 5, 5)), atol=1e-5, rtol=1e-5)


@needs_compiler
def test_nan_stays_in_its_image():
    block, form = pair()
    x_NCHW = torch.randn(2, 96, 5, 5)
    clean, _ = both(block, form, x_NCHW)
    x_NCHW[0, 9] = float("nan")
    ours, theirs = both(block, form, x_NCHW)
    assert torch.equal(ours[1], clean[1])
    assert torch.equal(ours.isnan(), theirs.isnan())


@needs_compiler
def test_unsupported_inputs_use_several_operators():
    block, form = pair()
    x_NCHW = torch.randn(2, 96, 5, 5)
    assert form._arguments_for(torch.randn(2, 96, 5, 10)[..., ::2], (), {}) is None
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(*both(block, form, x_NCHW, in_kernels=False), atol=0.1, rtol=0.1)
    both(block, form, x_NCHW[:0], in_kernels=False)  # an empty batch
    form.conv_block.bfloat16()  # shared with the block
    assert form._arguments_for(x_NCHW, (), {}) is None


@needs_compiler
def test_a_row_that_does_not_fit_into_shared_memory_uses_torch_operators():
    block, form = pair()
    x_NCHW = torch.randn(1, 96, 1, 8000)
    assert form.plan(x_NCHW) is None
    assert str(form.plan(x_NCHW[..., :80].contiguous())) == "mod_block"
    torch.testing.assert_close(*both(block, form, x_NCHW, in_kernels=False), atol=1e-5, rtol=1e-5)


@needs_compiler
def test_weights_are_read_in_every_call():
    block, form = pair()
    x_NCHW = torch.randn(1, 96, 5, 5)
    first, _ = both(block, form, x_NCHW)
    block.conv_block[0].weight.mul_(3)
    second, theirs = both(block, form, x_NCHW)
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, theirs, atol=1e-5, rtol=1e-5)


@needs_compiler
def test_a_hook_that_is_added_later_is_called():
    block, form = pair()
    form.conv_block[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(*both(block, form, torch.randn(1, 96, 5, 5), in_kernels=False), atol=1e-5, rtol=1e-5)


def test_long_conv_blocks_are_not_accepted():
    layers = [nn.Conv2d(6, 6, 1), nn.ReLU()] * 16
    assert HostForm.accepts(MoDBlock(nn.Sequential(*layers), 96, 6))
    assert not HostForm.accepts(MoDBlock(nn.Sequential(*layers, nn.ReLU()), 96, 6))


def test_blocks_on_a_cpu_are_not_accepted():
    assert not CudaForm.accepts(pair()[0])


@needs_compiler
def test_a_lowered_network_computes_the_same(monkeypatch):
    monkeypatch.setattr(EagerTarget, "forms", (HostForm,))
    model = trained_norms_(convert_(tiny_network(), MoDConfig(c=4), example=torch.rand(1, 1, 8, 8)))
    lowered = lower(model, example=torch.rand(1, 1, 8, 8))
    x_NCHW = torch.rand(2, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(lowered(x_NCHW), model(x_NCHW), atol=1e-5, rtol=1e-5)
    assert all(block.names == ["mod_block"] for block in mod_blocks(lowered).values())


def test_unusable_kernels_log_one_warning(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    has_kernels.cache_clear()
    with caplog.at_level(logging.WARNING, "cnnmod"):
        assert not has_kernels(torch.device("cpu"))
        assert not has_kernels(torch.device("cpu"))
    has_kernels.cache_clear()
    assert caplog.text.count("the CUDA kernels do not run on cpu") == 1
    assert "MoD blocks run as several operators" in caplog.text


@needs_compiler
def test_the_example_is_correct_and_a_wrong_kernel_is_found(monkeypatch):
    """The example runs in the kernels on the CPU. A kernel that changes nothing is not used."""
    monkeypatch.setattr(cuda_form, "mod_block_", Host().mod_block_)
    has_kernels.cache_clear()
    assert has_kernels(torch.device("cpu"))
    monkeypatch.setattr(cuda_form, "mod_block_", lambda *arguments: None)
    has_kernels.cache_clear()
    assert not has_kernels(torch.device("cpu"))
    has_kernels.cache_clear()


@pytest.mark.skipif(not is_compiled(), reason="the operator of the CPU cannot be compiled here")
@pytest.mark.parametrize("dynamic", [False, True])
def test_the_operator_is_whole_in_a_compiled_graph(dynamic, monkeypatch):
    """The graph has one operator, which runs with a single shape and with several shapes."""
    monkeypatch.setattr(HostForm, "run", CudaForm.run)
    block, form = pair()
    compiled = torch.compile(lambda x: form(x * 2), fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in (5, 6):
        x_NCHW = torch.randn(2, 96, size, size)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x_NCHW), block(x_NCHW * 2), atol=1e-5, rtol=1e-5)


@needs_gpu
def test_cases_on_a_gpu():
    assert run_cases(1000) == 1000


@needs_gpu
def test_a_lowered_network_on_a_gpu_uses_the_kernels():
    model = trained_norms_(convert_(tiny_network(), MoDConfig(c=4), example=torch.rand(1, 1, 8, 8))).cuda()
    lowered = lower(model, example=torch.rand(1, 1, 8, 8, device="cuda"))
    assert {type(block) for block in mod_blocks(lowered).values()} == {CudaForm}
    x_NCHW = torch.rand(2, 1, 8, 8, device="cuda")
    with torch.inference_mode():
        torch.testing.assert_close(lowered(x_NCHW), model(x_NCHW), atol=1e-4, rtol=1e-4)

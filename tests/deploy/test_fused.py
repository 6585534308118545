import logging

import pytest
import torch
from torch import nn

from cnnmod import MoDBlock, MoDConfig, convert_, lower, mod_blocks
from cnnmod.deploy import fused
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.fused import FusedForm, is_compiled
from cnnmod.networks import build
from conftest import trained_norms_
from form_pairs import Ends
from matrix import combinations
from small import digits_resnet

EXAMPLE = torch.rand(1, 1, 8, 8)
needs_compiler = pytest.mark.skipif(not is_compiled(), reason="no compiler here")


def conv_block(k, groups=1):
    layers = [nn.Conv2d(k, 6, 1), nn.ReLU6(), nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=groups), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(6, k, 3, padding=1))


def pair(config, channels=64, k=6, groups=1):
    """Return a MoD block and its fused form."""
    block = MoDBlock(conv_block(k, groups), channels, k, config).eval().requires_grad_(False)
    if block.gain_K is not None:
        block.gain_K.uniform_(0.5, 2)
    assert FusedForm.accepts(block)
    return block, FusedForm(block).eval().requires_grad_(False)


def both(block, form, x_NCHW):
    with torch.inference_mode():
        return form(x_NCHW.clone(memory_format=torch.preserve_format)), block(x_NCHW)


@needs_compiler
@pytest.mark.parametrize(
    "fields",
    combinations(
        order=("score", "index"), fuse_to=("first", "last"), candidates=(None, 2), identity_start=(False, True)
    ),
    ids=str,
)
def test_equals_the_training_form(fields):
    block, form = pair(MoDConfig(**fields), groups=2)
    for size in ((1, 64, 9, 7), (5, 64, 3, 3), (2, 64, 1, 1)):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            ours, theirs = both(block, form, 8 * torch.randn(size).contiguous(memory_format=memory_format))
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize("order", ["score", "index"])
def test_ties_go_to_the_lower_channel(order):
    block, form = pair(MoDConfig(order=order))
    block.selector.expand.weight.copy_(block.selector.expand.weight[torch.arange(64) // 4].clone())
    ours, theirs = both(block, form, torch.randn(3, 64, 5, 5))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    block.selector.expand.weight.zero_()
    ours, theirs = both(block, form, torch.randn(3, 64, 5, 5))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@needs_compiler
def test_unselected_channels_are_copied_exactly_and_nan_stays_in_its_image():
    block, form = pair(MoDConfig())
    x_NCHW = torch.randn(2, 64, 5, 5)
    ours, _ = both(block, form, x_NCHW)
    assert torch.equal(ours[:, 6:], x_NCHW[:, 6:])
    x_NCHW[0, 9] = float("nan")
    corrupted, _ = both(block, form, x_NCHW)
    assert torch.equal(corrupted[1], ours[1])


@needs_compiler
@pytest.mark.parametrize(
    "name",
    [
        "resnet18_mod",
        "mobilenetv2_mod",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50_mod", "vgg16_bn_cifar_mod")),
    ],
)
def test_lowered_networks_use_the_fused_form(name):
    model = trained_norms_(build(name))
    lowered = lower(model)
    assert {type(block) for block in mod_blocks(lowered).values()} == {FusedForm}
    x_NCHW = torch.rand(2, 3, 32, 32) if "cifar" in name else torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(x_NCHW)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            ours = lowered.to(memory_format=memory_format)(x_NCHW.contiguous(memory_format=memory_format))
            torch.testing.assert_close(ours, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)


@needs_compiler
def test_unsupported_inputs_use_the_eager_form():
    block, form = pair(MoDConfig())
    for x_NCHW in (torch.randn(2, 64, 5, 5).double(), torch.randn(2, 64, 5, 10)[..., ::2]):
        block.to(x_NCHW.dtype)
        form.to(x_NCHW.dtype)
        torch.testing.assert_close(*both(block, form, x_NCHW), atol=1e-5, rtol=1e-5)
        block.float()
        form.float()


@needs_compiler
def test_operator_passes_opcheck_and_compiles():
    block, form = pair(MoDConfig())
    arguments = [torch.randn(2, 64, 5, 5), *(form.arguments() or ())]
    checks = ("test_schema", "test_faketensor")
    assert set(torch.library.opcheck(torch.ops.cnnmod.mod_block_, arguments, test_utils=checks).values()) == {"SUCCESS"}
    compiled = torch.compile(lambda x_NCHW: form(x_NCHW * 2), fullgraph=True, backend="aot_eager")
    x_NCHW = torch.randn(2, 64, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x_NCHW), block(x_NCHW * 2), atol=1e-5, rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize(
    "end", [lambda y, x: torch.relu(y + x), lambda y, x: y.relu_().add_(x), lambda y, x: y.relu() + y]
)
def test_sums_equal_the_training_form(end):
    block = MoDBlock(Ends(end), 64, 6).eval().requires_grad_(False)
    assert FusedForm.accepts(block)
    torch.testing.assert_close(*both(block, FusedForm(block), torch.randn(2, 64, 5, 5)), atol=1e-5, rtol=1e-5)


def test_unsupported_conv_block_is_not_fused():
    assert not FusedForm.accepts(MoDBlock(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.GELU()), 64, 6))


def test_block_with_a_hook_is_not_fused():
    block = MoDBlock(conv_block(6), 64, 6)
    block.conv_block[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert not FusedForm.accepts(block)


@pytest.mark.parametrize("fields", [{"select": "first"}, {"select": "random"}, {"fuse_to": "original"}], ids=str)
def test_unsupported_configs_are_not_fused(fields):
    assert not FusedForm.accepts(MoDBlock(conv_block(6), 64, 6, MoDConfig(**fields)))


def test_missing_compiler_logs_a_warning(monkeypatch, caplog):
    def load(*args, **kwargs):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr("torch.utils.cpp_extension.load", load)
    monkeypatch.setattr(fused, "is_compiled", is_compiled.__wrapped__)
    model = trained_norms_(convert_(digits_resnet(), MoDConfig(c=4), example=EXAMPLE))
    with caplog.at_level(logging.WARNING, "cnnmod"):
        lowered = lower(model, example=EXAMPLE)
    assert {type(block) for block in mod_blocks(lowered).values()} == {EagerForm}
    assert "the fused operator cannot be compiled (no compiler); MoD blocks run as several operators" in caplog.text


def test_each_installation_has_its_own_build_folder(tmp_path, monkeypatch):
    """Two installations with the same source do not build the operator again in turn."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fused.cpp").write_text("the same source")
    one, two = (fused._build_folder(tmp_path / name / "fused.cpp") for name in ("one", "two"))
    assert one != two
    assert one == fused._build_folder(tmp_path / "one" / "fused.cpp")

"""Tests of the Triton form. test_triton_form.py runs them in a separate process, since importing triton decides whether
kernels are compiled for a GPU or interpreted on the CPU."""

import pytest
import torch
import triton
from torch import nn

from cnnmod import MoDBlock, MoDConfig, convert_, lower, mod_blocks
from cnnmod.deploy import triton_form
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.triton_form import TritonForm
from cnnmod.measure.memory import peak_memory_mib
from conftest import trained_norms_
from matrix import combinations
from small import tiny_network

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
both_formats = pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    monkeypatch.setattr(triton_form, "_DEVICE", DEVICE)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def images(*shape, memory_format=torch.contiguous_format):
    return 8 * torch.randn(shape, device=DEVICE).contiguous(memory_format=memory_format)


@torch.no_grad()
def pair(config=MoDConfig(), channels=96, k=6):
    """Return a MoD block and its Triton form."""
    conv_block = nn.Sequential(nn.Conv2d(k, 5, 1), nn.ReLU(), nn.Conv2d(5, k, 3, padding=1))
    block = MoDBlock(conv_block, channels, k, config).to(DEVICE).eval().requires_grad_(False)
    if block.gain_K is not None:
        block.gain_K.uniform_(0.5, 2)
    assert TritonForm.accepts(block)
    return block, TritonForm(block).eval().requires_grad_(False)


def both(block, form, x_NCHW, fits=True):
    assert form._fits(x_NCHW) == fits
    with torch.inference_mode():
        return form(x_NCHW.clone(memory_format=torch.preserve_format)), block(x_NCHW)


@pytest.mark.parametrize(
    "options",
    combinations(
        memory_format=tuple(FORMATS.values()),
        order=("score", "index"),
        fuse_to=("first", "last", "original"),
        candidates=(None, 2),
    ),
    ids=str,
)
def test_equals_the_training_form(options):
    fields = options | {"identity_start": options["candidates"] is not None}
    memory_format = fields.pop("memory_format")
    block, form = pair(MoDConfig(**fields))
    for size in ((1, 96, 9, 7), (3, 96, 3, 3)):
        x_NCHW = images(*size, memory_format=memory_format)
        ours, theirs = both(block, form, x_NCHW)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        assert ours.stride() == x_NCHW.stride()


@both_formats
@pytest.mark.parametrize(
    ("channels", "k", "size"), [(1, 1, (3, 3)), (24, 1, (1, 5)), (130, 64, (1, 2)), (3, 2, (67, 65))], ids=str
)
def test_unusual_sizes_equal_the_training_form(channels, k, size, memory_format):
    """One channel, one row, the largest k, and more pixels than one tile has."""
    block, form = pair(MoDConfig(reduction=5), channels, k)
    x_NCHW = images(2, channels, *size, memory_format=memory_format)
    torch.testing.assert_close(*both(block, form, x_NCHW), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("order", ["score", "index"])
def test_ties_go_to_the_lower_channel(order):
    block, form = pair(MoDConfig(order=order))
    expand = block.selector.expand.weight
    for tied in (expand[torch.arange(96) // 4].clone(), torch.zeros_like(expand)):
        expand.copy_(tied)
        x_NCHW = images(3, 96, 5, 5)
        torch.testing.assert_close(*both(block, form, x_NCHW), atol=1e-5, rtol=1e-5)
        _, _, index_NK = torch.ops.cnnmod.select_and_gather(x_NCHW, *form.arguments())  # pyright: ignore[reportOptionalIterable]  a plain selector has two weights
        assert torch.equal(index_NK, block.select(x_NCHW)[1])


@pytest.mark.parametrize("order", ["score", "index"])
def test_special_logits_are_ranked_like_select_channels(order):
    """Logits of 0.0, -0.0, infinity and NaN. The mean of the image is 1, so the weights are the logits."""
    block, form = pair(MoDConfig(order=order, reduction=96), k=9)
    with torch.inference_mode():
        block.selector.reduce.weight.zero_()[0, 0] = 1
        logit_C = block.selector.expand.weight.view(-1)
        logit_C[::3] = 0.0
        logit_C[1::6] = -0.0
        logit_C[[40, 20, 10]] = torch.tensor([1.0, torch.inf, torch.nan], device=DEVICE)
        logit_C[2::3] -= 1
        x_NCHW = torch.ones(1, 96, 1, 1, device=DEVICE)
        _, score_NK, index_NK = torch.ops.cnnmod.select_and_gather(x_NCHW, *form.arguments())  # pyright: ignore[reportOptionalIterable]  a plain selector has two weights
        expected_score_NK, expected_index_NK = block.select(x_NCHW)
    assert torch.equal(index_NK, expected_index_NK)
    torch.testing.assert_close(score_NK, expected_score_NK, equal_nan=True)


@both_formats
def test_unselected_channels_are_copied_exactly_and_nan_stays_in_its_image(memory_format):
    block, form = pair()
    x_NCHW = images(2, 96, 5, 5, memory_format=memory_format)
    ours, _ = both(block, form, x_NCHW)
    assert torch.equal(ours[:, 6:], x_NCHW[:, 6:])
    x_NCHW[0, 9] = float("nan")
    corrupted, theirs = both(block, form, x_NCHW)
    assert torch.equal(corrupted[1], ours[1])
    assert torch.equal(corrupted.isnan(), theirs.isnan())


@both_formats
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_networks_equal_the_training_form(dtype, memory_format):
    """The tolerance is two rounding errors, since the training form rounds the scaled result and the sum."""
    block, form = pair(MoDConfig(identity_start=True))
    block.to(dtype)
    form.to(dtype)
    x_NCHW = images(2, 96, 5, 5, memory_format=memory_format).to(dtype)
    ours, theirs = both(block, form, x_NCHW)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, atol=32 * torch.finfo(dtype).eps, rtol=2 * torch.finfo(dtype).eps)
    assert torch.equal(ours[:, 6:], x_NCHW[:, 6:])


@pytest.mark.parametrize("residual", [False, True])
def test_lowered_network_uses_triton_forms(residual):
    model = trained_norms_(convert_(tiny_network(), MoDConfig(c=4, residual=residual), example=torch.rand(1, 1, 8, 8)))
    lowered = lower(model.to(DEVICE), example=torch.rand(1, 1, 8, 8, device=DEVICE))
    assert {type(block) for block in mod_blocks(lowered).values()} == {TritonForm}
    x_NCHW = torch.rand(1, 1, 8, 8, device=DEVICE)
    with torch.inference_mode():
        torch.testing.assert_close(lowered(x_NCHW), model(x_NCHW), atol=1e-5, rtol=1e-5)


def test_unsupported_inputs_use_the_eager_form():
    block, form = pair()
    x_NCHW = images(2, 96, 5, 10)
    torch.testing.assert_close(*both(block, form, x_NCHW[..., ::2], fits=False), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*both(block, form, x_NCHW[..., :1, :1], fits=False), atol=1e-5, rtol=1e-5)
    assert not TritonForm.accepts(MoDBlock(nn.Identity(), 96, 65, MoDConfig()).to(DEVICE))
    with torch.autocast(DEVICE, torch.bfloat16):
        torch.testing.assert_close(*both(block, form, x_NCHW, fits=False), atol=0.1, rtol=0.1)
    assert not form._fits(x_NCHW[:0])
    with pytest.raises(ValueError, match=r"a MoD block of 96 channels takes \(N, 96, H, W\)"):
        form(x_NCHW[:, 1:])
    with pytest.raises(ValueError, match=r"for inference: call it under torch\.inference_mode"):
        form(x_NCHW.requires_grad_())
    block.double()
    form.double()
    torch.testing.assert_close(*both(block, form, x_NCHW.detach().double(), fits=False))


@pytest.mark.parametrize("fields", [{"select": "first"}, {"select": "random"}], ids=str)
def test_other_configs_use_the_eager_form(fields):
    images = torch.rand(1, 1, 8, 8)
    model = convert_(tiny_network(), MoDConfig(c=4, **fields), example=images).to(DEVICE)
    lowered = lower(model, example=images.to(DEVICE))
    assert not any(isinstance(block, TritonForm) for block in mod_blocks(lowered).values())


def test_other_memory_format_is_supported_and_other_size_raises():
    block, form = pair()
    form.conv_block = nn.Upsample(scale_factor=1)
    block.conv_block = nn.Upsample(scale_factor=1)
    block.conv_block.forward = form.conv_block.forward = lambda x_NKHW: x_NKHW.mT.contiguous().mT
    torch.testing.assert_close(*both(block, form, images(2, 96, 5, 4)), atol=1e-5, rtol=1e-5)
    form.conv_block.forward = lambda x_NKHW: x_NKHW[..., 1:]
    with pytest.raises(RuntimeError, match="expanded size"):
        both(block, form, images(2, 96, 5, 4))


def test_operators_pass_opcheck_and_compile():
    block, form = pair()
    x_NCHW = images(2, 96, 5, 5, memory_format=torch.channels_last)
    arguments = (x_NCHW, *form.arguments())  # pyright: ignore[reportOptionalIterable]  a plain selector has two weights
    x_NKHW, score_NK, index_NK = torch.ops.cnnmod.select_and_gather(*arguments)
    checks = ("test_schema", "test_faketensor")
    for operator, given in (
        (torch.ops.cnnmod.select_and_gather, arguments),
        (torch.ops.cnnmod.fuse_, (x_NCHW, x_NKHW, score_NK, index_NK, 0)),
    ):
        assert set(torch.library.opcheck(operator, given, test_utils=checks).values()) == {"SUCCESS"}
    compiled = torch.compile(lambda x_NCHW: form(x_NCHW * 2), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x_NCHW), block(x_NCHW * 2), atol=1e-5, rtol=1e-5)


def test_selector_weights_are_counted_as_memory():
    block, form = pair()
    x_NCHW = images(1, 96, 2, 2)
    with torch.inference_mode():
        ours, theirs = (peak_memory_mib(lambda it=it: it(x_NCHW.clone())) for it in (form, EagerForm(block)))
    weights_mib = sum(weight.nbytes for weight in block.parameters()) / 2**20
    assert weights_mib < ours <= 1.2 * theirs

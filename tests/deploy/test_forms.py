import copy
from dataclasses import dataclass, fields
from functools import partial

import pytest
import torch
from torch import nn

from cnnmod import MoDBlock, MoDConfig
from cnnmod.deploy.cuda.form import CudaForm
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.fused import FusedForm
from cnnmod.deploy.graph_forms import GraphForm, OnnxForm
from deploy_changes import SELECTOR_CHANGES
from form_pairs import check, conv_block, pair
from matrix import combinations

FORMS = [EagerForm, GraphForm, OnnxForm]


@pytest.mark.parametrize(
    "options",
    combinations(
        form=FORMS,
        select=("learned", "random", "first"),
        order=("score", "index"),
        fuse_to=("first", "last", "original"),
        candidates=(None, 2),
        identity_start=(False, True),
    ),
    ids=str,
)
def test_equals_the_training_form(options):
    form, fields = options["form"], {name: value for name, value in options.items() if name != "form"}
    block, made = pair(form, MoDConfig(reduction=2, **fields))
    for images in (1, 2, 5):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            check(block, made, torch.randn(images, 64, 5, 7).contiguous(memory_format=memory_format))


@pytest.mark.parametrize(
    "options",
    combinations(
        form=FORMS,
        select=("learned", "random", "first"),
        fuse_to=("first", "all"),
        candidates=(None, 2),
        identity_start=(False, True),
    ),
    ids=str,
)
def test_options_that_are_not_in_the_paper_equal_the_training_form(options):
    form, fields = options["form"], {name: value for name, value in options.items() if name != "form"}
    if fields["select"] != "random":
        fields["scale"] = "input"
    inner = conv_block
    if fields["fuse_to"] == "all":
        fields["identity_start"], inner = False, partial(conv_block, out=64)
    block = pair(form, MoDConfig(reduction=2, **fields), inner=inner)[0]
    if fields["fuse_to"] == "all":
        block.activation = nn.ReLU()
    assert form.accepts(block)
    made = form(copy.deepcopy(block)).eval().requires_grad_(False)
    for images in (1, 3):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            check(block, made, torch.randn(images, 64, 5, 7).contiguous(memory_format=memory_format))


@pytest.mark.parametrize("form", FORMS)
def test_block_without_a_selector_equals_the_training_form(form):
    block = MoDBlock(conv_block(6, out=64), 64, 6, MoDConfig(select="first", scale="none", fuse_to="all"))
    block = block.eval().requires_grad_(False)
    check(block, form(copy.deepcopy(block)).eval(), torch.randn(2, 64, 5, 7))


class InFloat64(nn.Sequential):
    """Computes in float64 and returns float64, as layers do that need more precision."""

    def forward(self, x):
        return super().forward(x.double())


@pytest.mark.parametrize("form", FORMS)
def test_conv_block_that_returns_a_wider_dtype_is_rounded_before_the_sum(form):
    """x (float32) + y (float64) rounds once; the training form rounds y, and then the sum."""
    inner = InFloat64(*conv_block(6, out=64).double())
    block = MoDBlock(inner, 64, 6, MoDConfig(select="first", scale="none", fuse_to="all")).eval().requires_grad_(False)
    made = form(copy.deepcopy(block)).eval()
    x_NCHW = torch.randn(4, 64, 5, 7)
    assert torch.equal(made(x_NCHW), block(x_NCHW))
    assert not torch.equal(block(x_NCHW), (x_NCHW + inner(x_NCHW[:, :6])).float())


@pytest.mark.parametrize("form", [None, *FORMS])
@pytest.mark.parametrize("select", ["learned", "random", "first"])
def test_conv_block_that_changes_its_input_in_place_does_not_change_the_feature_map(select, form):
    def inner(k):
        return nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(k, k, 1))

    block = MoDBlock(inner(4), 16, 4, MoDConfig(select=select)).eval().requires_grad_(False)
    made = block if form is None else form(copy.deepcopy(block)).eval()
    x_NCHW = torch.randn(2, 16, 5, 7)
    before_NCHW = x_NCHW.clone()
    after_NCHW = made(x_NCHW)
    assert torch.equal(x_NCHW, before_NCHW)
    assert torch.equal(after_NCHW[:, 4:], x_NCHW[:, 4:])


@pytest.mark.parametrize("form", [EagerForm, GraphForm])
@pytest.mark.parametrize("order", ["score", "index"])
def test_equals_the_training_form_with_equal_scores(order, form):
    """OnnxForm is not tested here, since the TopK of the runtime breaks ties. See test_export.py."""
    for tie in (4, 64):  # equal in groups of four, of which the second is partly selected, and all equal
        block = MoDBlock(conv_block(6), 64, 6, MoDConfig(order=order)).eval().requires_grad_(False)
        weight = block.selector.expand.weight
        weight.copy_(weight[torch.arange(64) // tie].clone())
        made = form(copy.deepcopy(block))
        for images in (1, 3):
            check(block, made, torch.randn(images, 64, 5, 5))


def test_nan_logits_are_selected_first_with_the_lower_index_first():
    block = MoDBlock(nn.Identity(), 64, 6, MoDConfig()).eval().requires_grad_(False)
    block.selector.expand.weight[[40, 7, 21, 50]] = torch.nan
    for images in (1, 3):
        x_NCHW = torch.rand(images, 64, 5, 5)
        _, index_NK = block.select(x_NCHW)
        assert index_NK[:, :4].tolist() == [[7, 21, 40, 50]] * images
        out_NCHW = EagerForm(copy.deepcopy(block)).eval()(x_NCHW)
        torch.testing.assert_close(out_NCHW, block(x_NCHW), equal_nan=True)


@pytest.mark.parametrize("form", FORMS)
def test_conv_block_gets_additional_arguments(form):
    class Scaled(nn.Conv2d):
        def forward(self, x_NKHW, scale):
            return super().forward(x_NKHW) * scale

    check(*pair(form, inner=lambda k: Scaled(k, k, 3, padding=1)), torch.randn(2, 64, 5, 5), 3.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.05)])
def test_other_dtypes_equal_the_training_form(form, dtype, tolerance):
    block, _ = pair(form)
    block.to(dtype)
    check(block, form(copy.deepcopy(block)), torch.randn(2, 64, 5, 5, dtype=dtype), tolerance=tolerance)


@pytest.mark.parametrize("form", FORMS)
def test_selector_computes_in_float32_under_autocast(form):
    block, made = pair(form)
    with torch.autocast("cpu", torch.bfloat16):
        check(block, made, torch.randn(2, 64, 5, 5), tolerance=0.05)


class TestEager:
    def test_overwrite_returns_the_input_tensor(self):
        for config in (MoDConfig(), MoDConfig(fuse_to="last"), MoDConfig(fuse_to="original")):
            _, made = pair(EagerForm, config)
            x_NCHW = torch.randn(2, 64, 5, 5)
            before = x_NCHW.clone()
            made(x_NCHW)
            assert torch.equal(x_NCHW, before)
            assert made.overwrite(x_NCHW).data_ptr() == x_NCHW.data_ptr()
            touched = (x_NCHW != before).flatten(2).any(2).sum(1)
            assert touched.tolist() == [6, 6]

    def test_invalid_inputs_raise(self):
        _, made = pair(EagerForm)
        with pytest.raises(ValueError, match=r"a MoD block of 64 channels takes \(N, 64, H, W\)"):
            made(torch.rand(1, 63, 8, 8))
        with pytest.raises(ValueError, match=r"with H, W ≥ 1, not \(1, 64, 0, 8\)"):
            made(torch.rand(1, 64, 0, 8))
        with pytest.raises(ValueError, match=r"for inference: call it under torch\.inference_mode"):
            made(torch.rand(1, 64, 8, 8, requires_grad=True))

    def test_equal_logits_use_the_exact_ranking(self, monkeypatch):
        """`topk` alone is used only if all logits differ."""
        _, made = pair(EagerForm)
        exact = []
        plain = MoDBlock.select
        monkeypatch.setattr(MoDBlock, "select", lambda self, x_NCHW: exact.append(1) or plain(self, x_NCHW))
        x_NCHW = torch.randn(2, 64, 5, 5)
        made(x_NCHW)
        assert not exact
        logit_NC = made.selector(x_NCHW)
        seventh, sixth = logit_NC[1].topk(7).indices[[6, 5]]
        made.selector.expand.weight[seventh] = made.selector.expand.weight[sixth]
        made(x_NCHW)
        assert exact == [1]


class TestUnknownOptions:
    """A form does not accept blocks with unknown options."""

    FORMS = (EagerForm, FusedForm, CudaForm, GraphForm, OnnxForm)

    def block(self, config=MoDConfig(), **kwargs):
        return MoDBlock(nn.Conv2d(6, 6, 3, padding=1), 64, 6, config, **kwargs).eval()

    def test_config_with_an_unknown_field_is_not_accepted(self):
        @dataclass(frozen=True, kw_only=True)
        class Config(MoDConfig):
            no_form_knows_this: float = 1.0

        for config, accepting in ((MoDConfig(), {EagerForm, GraphForm, OnnxForm}), (Config(), set())):
            forms = {form for form in self.FORMS if form.accepts(self.block(config))}
            assert forms - {FusedForm} == accepting
            assert accepting or not forms

    @pytest.mark.parametrize("field", ["select", "order", "fuse_to", "identity_start", "residual"])
    def test_unknown_field_value_is_not_accepted(self, field):
        block, config = self.block(), copy.copy(MoDConfig())
        object.__setattr__(config, field, "new")
        block.config = config
        assert not any(form.accepts(block) for form in self.FORMS)

    def test_every_config_field_is_listed_in_handles(self):
        """A field that is missing in `handles` would make every form refuse every block."""
        assert set(EagerForm.handles) == {field.name for field in fields(MoDConfig)}

    def test_subclassed_hooked_and_patched_blocks_are_not_accepted(self):
        class Own(MoDBlock):
            pass

        own = Own(nn.Conv2d(6, 6, 3, padding=1), 64, 6)
        hooked = self.block()
        hooked.register_forward_hook(lambda *_: None)
        patched = self.block()
        patched.forward = lambda x_NCHW: x_NCHW
        for block in (own, hooked, patched):
            assert not any(form.accepts(block) for form in self.FORMS)

    @pytest.mark.parametrize("change", SELECTOR_CHANGES)
    def test_modified_selectors_are_accepted_only_by_forms_that_call_them(self, change):
        block = self.block()
        change(block.selector)
        assert {form for form in self.FORMS if form.accepts(block)} == {EagerForm, GraphForm, OnnxForm}


def test_forms_draw_no_random_numbers():
    block = MoDBlock(conv_block(6, out=64), 64, 6, MoDConfig(scale="input", fuse_to="all")).eval()
    state = torch.get_rng_state()
    for form in FORMS:
        made = form(copy.deepcopy(block))
        assert not any(value.is_meta for value in made.state_dict().values())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("form", FORMS)
def test_no_images(form):
    check(*pair(form, channels=64, inner=lambda k: nn.Conv2d(k, k, 1)), torch.randn(0, 64, 5, 5))

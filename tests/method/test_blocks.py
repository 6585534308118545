import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cnnmod import (
    ChannelSelector,
    MoDBlock,
    MoDConfig,
    control_,
    convert_,
    fuse,
    gather_channels,
    lower,
    mod_blocks,
    select_channels,
)
from cnnmod.networks import build
from matrix import combinations

CHANNELS, K = 32, 4


def make_block(**fields):
    conv_block = nn.Sequential(nn.Conv2d(K, K, 3, padding=1, bias=False), nn.BatchNorm2d(K), nn.ReLU())
    return MoDBlock(conv_block, CHANNELS, K, MoDConfig(**fields))


OPTIONS = combinations(
    select=("learned", "random", "first"),
    order=("score", "index"),
    fuse_to=("first", "last", "original"),
    candidates=(None, 4),
)


@pytest.mark.parametrize("fuse_to", ["first", "last", "original"])
@pytest.mark.parametrize("order", ["score", "index"])
def test_module_equals_the_functions(order, fuse_to):
    block, x_NCHW = make_block(order=order, fuse_to=fuse_to).eval(), torch.rand(3, CHANNELS, 5, 6)
    score_NK, index_NK = select_channels(block.selector(x_NCHW), K, order=order)
    y_NKHW = block.conv_block(gather_channels(x_NCHW, index_NK)) * score_NK[:, :, None, None]
    assert torch.equal(block(x_NCHW), fuse(x_NCHW, y_NKHW, to=fuse_to, index_NK=index_NK))


def test_selector_equals_manual_values():
    selector = ChannelSelector(2, hidden=2)
    selector.reduce.weight.data = torch.tensor([[1.0, 2.0], [-1.0, 0.0]])
    selector.expand.weight.data = torch.tensor([[1.0, 1.0], [0.5, 3.0]])
    x_NCHW = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # means 2 and 1; hidden relu(4, -2)
    assert selector(x_NCHW).tolist() == [[4.0, 2.0]]
    assert [name for name, _ in selector.named_parameters()] == ["reduce.weight", "expand.weight"]


class TestRandom:
    def test_selection_changes_in_training_and_is_fixed_in_evaluation(self):
        block, x_NCHW = make_block(select="random"), torch.rand(2, CHANNELS, 4, 4)
        assert len({tuple(block.select(x_NCHW)[1][0].tolist()) for _ in range(20)}) > 1
        block.eval()
        assert len({tuple(block.select(x_NCHW)[1][0].tolist()) for _ in range(20)}) == 1

    def test_has_no_selector_and_no_scores(self):
        block, x_NCHW = make_block(select="random").eval(), torch.rand(2, CHANNELS, 4, 4)
        index_NK = block.fixed_index_K.expand(2, K)
        assert torch.equal(block(x_NCHW), fuse(x_NCHW, block.conv_block(gather_channels(x_NCHW, index_NK))))
        assert not hasattr(block, "selector")

    def test_order_index_sorts_by_channel(self):
        block = make_block(select="random", order="index")
        index_NK = block.select(torch.rand(2, CHANNELS, 4, 4))[1]
        assert torch.equal(index_NK, index_NK.sort(1).values)


def test_first_selects_the_first_channels_with_their_scores():
    block, x_NCHW = make_block(select="first").eval(), torch.rand(2, CHANNELS, 4, 4)
    score_NK, index_NK = block.select(x_NCHW)
    assert index_NK.tolist() == [[0, 1, 2, 3]] * 2
    assert torch.equal(score_NK, block.selector(x_NCHW)[:, :K].sigmoid())


@pytest.mark.parametrize(
    ("candidates", "pool"),
    [(None, 32), (1, 16), (4, 16), (5, 32), (100, 32)],
)
def test_candidates_are_rounded_up_to_16_and_limited_to_c(candidates, pool):
    block = make_block(candidates=candidates)
    assert block.num_candidates == block.selector.reduce.in_features == block.selector.expand.out_features == pool
    assert block.selector.reduce.out_features == CHANNELS // 16
    assert block.select(torch.rand(8, CHANNELS, 4, 4))[1].max() < pool


@pytest.mark.parametrize("fields", OPTIONS, ids=str)
class TestEveryOption:
    def test_two_training_steps_reach_every_parameter(self, fields):
        block = make_block(**fields)
        before = copy.deepcopy(block.state_dict())
        optimizer = torch.optim.SGD(block.parameters(), lr=1.0)
        for _ in range(2):
            optimizer.zero_grad()
            block(torch.randn(8, CHANNELS, 4, 4)).square().mean().backward()
            optimizer.step()
        for name, parameter in block.named_parameters():
            assert parameter.grad is not None, name
            assert not torch.equal(before[name], parameter), name

    def test_is_per_image(self, fields):
        block, x_NCHW = make_block(**fields).eval(), torch.randn(4, CHANNELS, 5, 5)
        whole = block(x_NCHW)
        for image in range(4):
            torch.testing.assert_close(whole[image : image + 1], block(x_NCHW[image : image + 1]))

    @pytest.mark.slow
    def test_compiled_equals_eager(self, fields):
        block, x_NCHW = make_block(**fields).eval(), torch.randn(2, CHANNELS, 5, 5)
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x_NCHW), block(x_NCHW))


def test_deepcopy_and_state_dict_keep_the_weights():
    block, x_NCHW = make_block().eval(), torch.randn(2, CHANNELS, 4, 4)
    other = make_block().eval()
    other.load_state_dict(block.state_dict())
    assert torch.equal(copy.deepcopy(block)(x_NCHW), block(x_NCHW))
    assert torch.equal(other(x_NCHW), block(x_NCHW))


def test_channels_last_memory_format_is_kept():
    block, x_NCHW = make_block().eval(), torch.randn(2, CHANNELS, 4, 4)
    last = block.to(memory_format=torch.channels_last)(x_NCHW.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, block(x_NCHW))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_networks_rank_in_float32(dtype):
    block, x_NCHW = make_block().eval().to(dtype), torch.rand(2, CHANNELS, 4, 4).to(dtype)
    assert block(x_NCHW).dtype == dtype
    assert block.selector(x_NCHW).dtype == torch.float32


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_autocast_does_not_change_the_selection(seed):
    torch.manual_seed(seed)
    block, x_NCHW = make_block().eval(), torch.rand(4, CHANNELS, 6, 6)
    score_NK, index_NK = block.select(x_NCHW)
    with torch.autocast("cpu", torch.bfloat16):
        cast_score_NK, cast_index_NK = block.select(x_NCHW)
        assert block(x_NCHW).dtype == x_NCHW.dtype
    assert torch.equal(index_NK, cast_index_NK)
    assert torch.equal(score_NK, cast_score_NK)


@pytest.mark.parametrize("shape", [(2, 31, 4, 4), (2, 33, 4, 4), (2, 32, 4), (2, 32, 0, 4), (32, 4, 4)])
def test_invalid_input_shapes_raise(shape):
    with pytest.raises(ValueError, match=r"a MoD block of 32 channels takes \(N, 32, H, W\)"):
        make_block()(torch.zeros(shape))


@pytest.mark.parametrize("k", [0, 33])
def test_k_out_of_range_raises(k):
    with pytest.raises(ValueError, match=f"k must be from 1 to 32, the number of channels, not {k}"):
        MoDBlock(nn.Identity(), CHANNELS, k)


@pytest.mark.parametrize(("select", "scale"), [("learned", "input"), ("first", "none"), ("first", "input")])
def test_fuse_to_all_starts_as_the_activation(select, scale):
    config = MoDConfig(c=4, reduction=1, select=select, scale=scale, fuse_to="all")
    model = convert_(build("resnet18_cifar", channels=(16, 32, 64, 128), zero_init_last=False), config).train()
    x_NCHW = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(model(x_NCHW), control_(copy.deepcopy(model))(x_NCHW))
    for block in mod_blocks(model).values():
        assert isinstance(block.activation, nn.ReLU)
        nn.init.normal_(block.conv_block.bn2.weight, std=0.1)
    model(x_NCHW).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    model.eval()
    torch.testing.assert_close(lower(model)(x_NCHW), model(x_NCHW), atol=1e-4, rtol=1e-4)


def test_repr_shows_options_that_differ_from_the_defaults():
    def shown(config=MoDConfig(), **fields):
        return MoDBlock(nn.Conv2d(2, 2, 1), 64, 2, config, **fields).extra_repr()

    assert shown() == "channels=64, k=2"
    assert shown(MoDConfig(c=32)) == "channels=64, k=2, c=32"
    assert shown(MoDConfig(c=32, order="index", residual=False, placement="all")) == (
        "channels=64, k=2, c=32, order='index', residual=False, placement='all'"
    )
    assert shown(MoDConfig(placement=("layer1.1", "layer2.1"))) == "channels=64, k=2, placement=2 names"


def test_repr_of_converted_blocks_shows_c(small_resnet):
    blocks = mod_blocks(convert_(small_resnet, MoDConfig(c=4), example=torch.rand(1, 1, 8, 8))).values()
    for block in blocks:
        assert repr(block).splitlines()[1] == f"  channels={block.channels}, k={block.k}, c=4"

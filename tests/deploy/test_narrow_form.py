import copy

import pytest
import torch
from torch import nn

import cnnmod
from cnnmod import MoDBlock, MoDConfig
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.narrow_form import NarrowForm
from cnnmod.deploy.pointwise import PointwiseConv
from cnnmod.method.convert import mod_blocks
from form_pairs import check

LAYERS = {
    "bottleneck": lambda: [
        nn.Conv2d(6, 4, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 64, 1),
    ],
    "basicblock": lambda: [nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 64, 3, padding=1), nn.Identity()],
    "inverted": lambda: [nn.Identity(), nn.Conv2d(6, 36, 1), nn.ReLU6(), nn.Conv2d(36, 64, 1, bias=False)],
}
ACTIVATIONS = [nn.Identity(), nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.GELU()]


def narrow(layers=None, activation=None):
    layers = LAYERS["bottleneck"]() if layers is None else layers
    return (
        MoDBlock(nn.Sequential(*layers), 64, 6, MoDConfig.narrow(10), activation=activation)
        .eval()
        .requires_grad_(False)
    )


def form_of(block):
    assert NarrowForm.accepts(block)
    return NarrowForm(copy.deepcopy(block)).eval()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("layers", LAYERS)
def test_equals_the_training_form(layers, activation):
    block = narrow(LAYERS[layers](), activation)
    made = form_of(block)
    for images in (1, 3):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            check(block, made, torch.randn(images, 64, 5, 7).contiguous(memory_format=memory_format))


@pytest.fixture
def quick_calls(monkeypatch):
    """A list with an entry for each product that is accumulated into a feature map."""
    calls = []
    plain = PointwiseConv.add_to_
    monkeypatch.setattr(PointwiseConv, "add_to_", lambda *args: calls.append(1) or plain(*args))
    return calls


@pytest.mark.parametrize("shape", [(0, 64, 5, 7), (1, 64, 1, 1), (3, 64, 1, 1), (2, 64, 1, 7)])
def test_small_inputs_equal_the_training_form(shape, quick_calls):
    block = narrow(activation=nn.ReLU())
    for memory_format in (torch.contiguous_format, torch.channels_last):
        check(block, form_of(block), torch.randn(shape).contiguous(memory_format=memory_format))
    assert len(quick_calls) == 2


def test_other_strides_equal_the_training_form(quick_calls):
    block = narrow(activation=nn.ReLU())
    made = form_of(block)
    for x_NCHW in (
        torch.randn(2, 64, 7, 5).transpose(2, 3),
        torch.randn(2, 80, 5, 7)[:, 3:67],
        torch.randn(1, 1, 5, 7).expand(2, 64, 5, 7),
    ):
        check(block, made, x_NCHW)
    assert len(quick_calls) <= 2  # a copy of a part or of an expanded map is dense


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_equal_the_training_form(dtype, quick_calls):
    block = narrow().to(dtype)
    check(block, form_of(block), torch.randn(2, 64, 5, 7, dtype=dtype), tolerance=0.05)
    assert not quick_calls


def test_autocast_equals_the_training_form(quick_calls):
    block = narrow()
    with torch.autocast("cpu", torch.bfloat16):
        check(block, form_of(block), torch.randn(2, 64, 5, 7), tolerance=0.05)
    assert not quick_calls


def test_weights_that_require_gradients_get_the_right_ones(quick_calls):
    block = narrow(activation=nn.ReLU())
    made = form_of(block).requires_grad_(True)
    block.requires_grad_(True)
    x_NCHW = torch.randn(2, 64, 5, 7)
    for module in (block, made):
        module(x_NCHW).square().sum().backward()
    assert not quick_calls
    torch.testing.assert_close(made.conv_block[0].weight.grad, block.conv_block[0].weight.grad)


@pytest.mark.parametrize("name", ["conv_block", "conv_block.0", "conv_block.3", "activation"])
def test_a_forward_that_was_replaced_before_lowering_is_called(name, quick_calls):
    block = narrow(activation=nn.ReLU())
    layer = block.get_submodule(name)
    plain = layer.forward
    layer.forward = lambda x: plain(x) * 0.5
    x_NCHW = torch.randn(2, 64, 5, 7)
    expected = block(x_NCHW)
    torch.testing.assert_close(NarrowForm(block)(x_NCHW), expected)
    assert not quick_calls


@pytest.mark.parametrize("images", [1, 3])
def test_the_sum_is_in_the_memory_of_the_input_and_forward_does_not_change_it(images):
    made = form_of(narrow(activation=nn.ReLU()))
    x_NCHW = torch.randn(images, 64, 5, 7)
    before = x_NCHW.clone()
    expected = made(x_NCHW)
    assert torch.equal(x_NCHW, before)
    assert made.overwrite(x_NCHW).data_ptr() == x_NCHW.data_ptr()
    assert torch.equal(x_NCHW, expected)


@pytest.mark.parametrize("name", ["conv_block", "conv_block.0", "conv_block.1", "conv_block.3", "activation"])
def test_a_hook_sees_values_that_do_not_change(name):
    """A hook that is added after lowering may keep the inputs of a layer."""
    made = form_of(narrow(activation=nn.ReLU()))
    x_NCHW = torch.randn(2, 64, 5, 7)
    expected = made(x_NCHW)
    kept = []
    made.get_submodule(name).register_forward_pre_hook(lambda layer, given: kept.append((given[0], given[0].clone())))
    torch.testing.assert_close(made(x_NCHW), expected)
    if name != "conv_block.1":  # an inplace ReLU changes its input in every form
        assert torch.equal(*kept[0])


def test_replaced_layers_are_called():
    made = form_of(narrow())
    x_NCHW = torch.randn(2, 64, 5, 7)
    made.conv_block[3] = nn.Conv2d(4, 64, 1).requires_grad_(False)
    expected = x_NCHW + made.conv_block(x_NCHW[:, :6].clone())
    torch.testing.assert_close(made(x_NCHW), expected)


def test_current_weights_are_used():
    block = narrow()
    made = form_of(block)
    other = narrow()
    made.load_state_dict(other.state_dict())
    check(other, made, torch.randn(2, 64, 5, 7))
    another = narrow()
    made.load_state_dict(another.state_dict(), assign=True)
    check(another, made, torch.randn(2, 64, 5, 7))


def test_a_copy_notices_its_own_hooks():
    made = copy.deepcopy(form_of(narrow()))
    seen = []
    made.conv_block.register_forward_hook(lambda *_: seen.append(1))
    made(torch.randn(2, 64, 5, 7))
    assert seen == [1]


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(6, 64, 1)],
        [nn.Identity(), nn.Conv2d(6, 64, 1)],
        [nn.ReLU(inplace=True), nn.Conv2d(6, 64, 1)],
        [nn.Sequential(nn.Conv2d(6, 6, 1)), nn.Conv2d(6, 64, 1)],
    ],
    ids=str,
)
def test_blocks_that_could_read_what_they_write_are_not_accepted(layers):
    block = narrow(layers)
    assert not NarrowForm.accepts(block)
    assert EagerForm.accepts(block)


def test_other_options_are_not_accepted():
    for config in (MoDConfig(), MoDConfig(select="first"), MoDConfig(select="first", scale="input", fuse_to="all")):
        assert not NarrowForm.accepts(MoDBlock(nn.Sequential(nn.Conv2d(6, 6, 1), nn.Conv2d(6, 64, 1)), 64, 6, config))


@pytest.mark.parametrize("network", ["resnet18", "resnet26"])
def test_eager_networks_have_this_form(network):
    import timm

    model = cnnmod.convert_(timm.create_model(network), MoDConfig.narrow(8)).eval()
    for block in mod_blocks(model).values():
        block.conv_block[-1].weight.data.normal_(std=0.1)  # a new block adds zero
    lowered = cnnmod.lower(model)
    assert {type(block) for block in mod_blocks(lowered).values()} == {NarrowForm}
    products = {isinstance(block.chain[-1], PointwiseConv) for block in mod_blocks(lowered).values()}
    assert products == {network == "resnet26"}
    for images in (1, 2):
        check(model, lowered, torch.randn(images, 3, 64, 64), tolerance=1e-4)

"""Changes to the layers of a lowered block take effect. The form computes the same as the changed training form."""

import copy
import io

import pytest
import torch
from torch import nn

from cnnmod import MoDBlock, MoDConfig, convert_, lower
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.fused import FusedForm, is_compiled
from cnnmod.deploy.graph_forms import GraphForm, OnnxForm
from cnnmod.deploy.live import DirectLayers
from conftest import trained_norms_
from deploy_changes import SELECTOR_CHANGES, TO_A_LAYER, Adapted
from small import tiny_network

FORMS = [EagerForm, FusedForm, GraphForm, OnnxForm]
SMALL = torch.rand(1, 1, 8, 8)


def pair(form):
    if form is FusedForm and not is_compiled():
        pytest.skip("no compiler here")
    layers = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, bias=False))
    block = MoDBlock(layers, 64, 6, MoDConfig(reduction=2, identity_start=True)).eval().requires_grad_(False)
    nn.init.uniform_(block.get_parameter("gain_K"), 0.5, 2)
    assert form.accepts(block)
    return block, form(copy.deepcopy(block)).eval().requires_grad_(False)


def results(*blocks):
    x_NCHW = torch.randn(2, 64, 5, 5)
    with torch.inference_mode():
        return [block(x_NCHW) for block in blocks]


def check(form, change):
    """Check that the change has the same effect on the block and on its form."""
    block, made = pair(form)
    _, before = results(block, made)
    for one in (block, made):
        change(one)
    x_NCHW = torch.randn(2, 64, 5, 5)
    for one in (made, copy.deepcopy(made)):
        with torch.inference_mode():
            torch.testing.assert_close(one(x_NCHW), block(x_NCHW), atol=1e-5, rtol=1e-5)
    return before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", TO_A_LAYER)
@pytest.mark.parametrize("layer", ["0", "2"])
def test_changed_conv_block_layers_take_effect(form, change, layer):
    check(form, lambda block: change(block.conv_block.get_submodule(layer)))


@pytest.mark.parametrize("form", [EagerForm, FusedForm, GraphForm])
@pytest.mark.parametrize("change", SELECTOR_CHANGES)
def test_changed_selector_layers_take_effect(form, change):
    """`OnnxForm` is not tested, since files are written immediately after lowering."""
    check(form, lambda block: change(block.selector))


def weights(block):
    for layer in (block.selector.reduce, block.selector.expand, block.conv_block[0], block.conv_block[2]):
        layer.weight = nn.Parameter(layer.weight.flip(0) * 1.5, requires_grad=False)


def gain(block):
    block.gain_K = nn.Parameter(block.gain_K * 2, requires_grad=False)


def replaced_convolution(block):
    block.conv_block[2] = Adapted(nn.Conv2d(6, 6, 3, padding=1, bias=False).requires_grad_(False))
    with torch.no_grad():
        block.conv_block[2].layer.weight.fill_(0.1)


def longer(block):
    block.conv_block.append(nn.Sigmoid())


def replaced_conv_block(block):
    block.conv_block = nn.Sequential(nn.AvgPool2d(3, 1, 1))


def hook_on_the_conv_block(block):
    block.conv_block.register_forward_hook(lambda module, inputs, output: output * 3)


def hook_on_the_relu(block):
    block.conv_block[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))


def hook_on_the_block(block):
    block.register_forward_hook(lambda module, inputs, output: output * 3)


def dilated(block):
    block.conv_block[2].dilation = block.conv_block[2].padding = (2, 2)


def circular(block):
    block.conv_block[2].padding_mode = "circular"
    block.conv_block[2]._reversed_padding_repeated_twice = (1, 1, 1, 1)


def transposed_memory(block):
    weight = block.selector.reduce.weight
    block.selector.reduce.weight = nn.Parameter(weight.T.contiguous().T, requires_grad=False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "change",
    [
        weights,
        gain,
        replaced_convolution,
        longer,
        replaced_conv_block,
        hook_on_the_conv_block,
        hook_on_the_relu,
        hook_on_the_block,
        dilated,
        circular,
        transposed_memory,
    ],
)
def test_changed_block_takes_effect(form, change):
    check(form, change)


def test_weight_of_another_size_raises():
    """The operator does not read out of bounds."""
    _, made = pair(FusedForm)
    for layer, size in (
        (made.conv_block[2], (6, 5, 3, 3)),
        (made.selector.expand, (63, 32)),
        (made.conv_block[0], (6,)),
    ):
        one = copy.deepcopy(layer.weight)
        layer.weight = nn.Parameter(torch.rand(size), requires_grad=False)
        with pytest.raises(RuntimeError):
            results(made)
        layer.weight = one
    results(made)


@pytest.mark.parametrize("form", [EagerForm, FusedForm])
def test_global_hooks_are_called_for_every_layer(form):
    _, made = pair(form)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        results(made)
    finally:
        handle.remove()
    assert {made.selector.reduce, made.conv_block[0], made.conv_block[2], made} - set(seen) <= {made.selector.reduce}


class Networks:
    """Two lowered networks with different weights."""

    def __init__(self, runtime):
        config = MoDConfig(c=4, reduction=2, identity_start=True)
        self.models = [trained_norms_(convert_(tiny_network(), config, example=SMALL)) for _ in range(2)]
        for model in self.models:
            for name, parameter in model.named_parameters():
                if name.endswith("gain_K"):
                    nn.init.uniform_(parameter, 0.5, 2)
        self.lowered = [lower(model, runtime, example=SMALL) for model in self.models]

    def check(self, changed, dtype=torch.float32):
        """Check that a network computes the same as the second network."""
        x_NCHW = torch.rand(3, 1, 8, 8, dtype=dtype)
        with torch.inference_mode():
            expected = self.models[1].to(dtype)(x_NCHW)
            torch.testing.assert_close(changed(x_NCHW), expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(
    params=["eager", "pt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("compile", "onnxruntime"))]
)
def networks(request):
    return Networks(request.param)


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_state_dict_takes_effect(networks, assign):
    first, second = networks.lowered
    first.load_state_dict(second.state_dict(), assign=assign)
    networks.check(first)


def test_loaded_state_dict_of_another_dtype_takes_effect(networks):
    first, second = networks.lowered
    first.load_state_dict({name: tensor.double() for name, tensor in second.state_dict().items()}, assign=True)
    networks.check(first, torch.float64)


def test_state_dict_from_a_file_takes_effect(networks):
    first, second = networks.lowered
    file = io.BytesIO()
    torch.save(second.state_dict(), file)
    file.seek(0)
    first.load_state_dict(torch.load(file, mmap=False), assign=True)
    networks.check(first)


def test_functional_call_uses_the_passed_weights(networks):
    first, second = networks.lowered
    networks.check(lambda x_NCHW: torch.func.functional_call(first, second.state_dict(), (x_NCHW,)))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_network_can_be_converted_to_another_dtype_and_back(networks, overwrite, swap):
    _, second = networks.lowered
    torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        networks.check(second.double(), torch.float64)
        networks.check(second.float(), torch.float32)
        second.bfloat16()
        assert second(SMALL.bfloat16()).dtype == torch.bfloat16
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_changes_are_detected_after_copying_and_pickling():
    layer = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    layer.watched = DirectLayers(layer, "0")
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for one in (layer, copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert one.watched.are_unchanged()
        one[0][0].register_forward_hook(lambda *_: None)
        assert not one.watched.are_unchanged()

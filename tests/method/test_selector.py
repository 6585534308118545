"""The channel selector calls its two layers, so hooks, parametrizations and replaced layers take effect."""

import contextlib
import warnings

import pytest
import torch
from ptflops import get_model_complexity_info
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.functional import linear
from torch.nn.utils import parametrizations, parametrize, prune

from cnnmod import ChannelSelector, MoDBlock, MoDConfig, convert_, select_channels
from cnnmod.measure.count import count_modules
from cnnmod.networks import build
from matrix import combinations

C, K = 32, 4
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
both_widths = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def make_block(dtype=torch.float32, **fields):
    return MoDBlock(nn.Conv2d(K, K, 3, padding=1), C, K, MoDConfig(reduction=4, **fields)).to(dtype)


def images(dtype=torch.float32):
    return torch.randn(4, C, 5, 5).to(dtype)


def by_hand(x_NCHW, reduce, expand):
    """Compute the logits from two weights in float32 or a wider dtype."""
    dtype = torch.promote_types(x_NCHW.dtype, torch.float32)
    pooled_NC = x_NCHW.mean((2, 3), dtype=dtype)
    return linear(linear(pooled_NC, reduce.to(dtype)).relu(), expand.to(dtype))


def train(block, dtype):
    """Train for three steps, and check that every trainable parameter of the selector has a gradient."""
    optimizer = torch.optim.SGD([p for p in block.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        block(images(dtype)).float().square().mean().backward()
        optimizer.step()
    for name, parameter in block.selector.named_parameters():
        assert not parameter.requires_grad or (parameter.grad is not None and parameter.grad.any()), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cast", [None, torch.bfloat16])
def test_logits_are_in_float32_or_wider(dtype, cast):
    selector, x_NCHW = ChannelSelector(C, 8).to(dtype), images(dtype)
    expected = by_hand(x_NCHW, selector.reduce.weight, selector.expand.weight)
    with torch.autocast("cpu", cast) if cast else contextlib.nullcontext():
        logit_NC = selector(x_NCHW)
        compiled = torch.compile(selector, fullgraph=True, backend="aot_eager")(x_NCHW)
    assert logit_NC.dtype == compiled.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(logit_NC, expected)
    torch.testing.assert_close(compiled, expected)


def test_16_bit_weights_accept_float32_images():
    selector, x_NCHW = ChannelSelector(C, 8).bfloat16(), images()
    assert torch.equal(selector(x_NCHW), by_hand(x_NCHW, selector.reduce.weight, selector.expand.weight))


@both_widths
def test_hooks_of_the_layers_are_called(dtype):
    block, seen = make_block(dtype), []
    for name, layer in block.selector.named_children():
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.append((name, "before", args[0].shape[1])))
        layer.register_forward_hook(lambda _, args, output, name=name: seen.append((name, "after", output.shape[1])))
        layer.register_full_backward_hook(lambda *_, name=name: seen.append((name, "backward")))
    block(images(dtype).requires_grad_()).sum().backward()
    forward = [("reduce", "before", 32), ("reduce", "after", 8), ("expand", "before", 8), ("expand", "after", 32)]
    assert seen == [*forward, ("expand", "backward"), ("reduce", "backward")]


def test_output_of_a_hook_is_used():
    block, x_NCHW = make_block(), images()
    block.selector.expand.register_forward_hook(lambda layer, args, output: -output)
    expected = by_hand(x_NCHW, block.selector.reduce.weight, -block.selector.expand.weight)
    assert torch.equal(block.select(x_NCHW)[1], select_channels(expected, K)[1])


@both_widths
@pytest.mark.parametrize("select", ["learned", "first"])
def test_pruned_layers_take_effect(dtype, select):
    block, x_NCHW = make_block(dtype, select=select), images(dtype)
    layers = (block.selector.reduce, block.selector.expand)
    prune.l1_unstructured(layers[0], "weight", 0.5)
    prune.random_structured(layers[1], "weight", 0.5, dim=0)
    train(block, dtype)
    with torch.no_grad():
        for layer in layers:  # weights from before this change must not be used
            layer.weight_orig.mul_(-2)
        weights = [layer.weight_orig * layer.weight_mask for layer in layers]
        assert torch.equal(block.eval().selector(x_NCHW), by_hand(x_NCHW, *weights))
        for layer in layers:
            prune.remove(layer, "weight")
        assert torch.equal(block.selector(x_NCHW), by_hand(x_NCHW, *weights))


@both_widths
@pytest.mark.parametrize(
    "attach", [parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm, "own"]
)
def test_parametrized_layers_take_effect(dtype, attach):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    block, x_NCHW = make_block(dtype), images(dtype)
    for layer in (block.selector.reduce, block.selector.expand):
        if attach == "own":
            parametrize.register_parametrization(layer, "weight", Doubled())
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # nn.utils.weight_norm is deprecated but still used
                attach(layer)
    train(block, dtype)
    logit_NC = block.eval().selector(x_NCHW)
    expected = by_hand(x_NCHW, block.selector.reduce.weight, block.selector.expand.weight)
    torch.testing.assert_close(logit_NC, expected)


class LoRA(nn.Module):
    """A LoRA layer as in PEFT: it contains the layer and has no attribute `weight`."""

    def __init__(self, base, product):
        super().__init__()
        self.base_layer, self.product = base.requires_grad_(False), product
        self.down = nn.Parameter(torch.randn(2, base.in_features, dtype=base.weight.dtype))
        self.up = nn.Parameter(torch.randn(base.out_features, 2, dtype=base.weight.dtype))

    def forward(self, x):
        return self.base_layer(x) + self.product(x, self.down, self.up)


PRODUCTS = {
    "linear": lambda x, down, up: linear(linear(x, weight=down), up),
    "@": lambda x, down, up: x @ down.T @ up.T,
    "matmul": lambda x, down, up: torch.matmul(x, (up @ down).T),
    "einsum": lambda x, down, up: torch.einsum("nc,rc,or->no", x, down, up),
}


@both_widths
@pytest.mark.parametrize("product", PRODUCTS)
def test_lora_layers_take_effect(dtype, product):
    block, x_NCHW = make_block(dtype), images(dtype)
    selector = block.selector
    selector.reduce, selector.expand = (LoRA(layer, PRODUCTS[product]) for layer in (selector.reduce, selector.expand))
    train(block, dtype)
    wide = [
        layer.base_layer.weight.float() + layer.up.float() @ layer.down.float()
        for layer in (selector.reduce, selector.expand)
    ]
    tolerance = {"atol": 0.1, "rtol": 0.1} if dtype == torch.bfloat16 and product == "matmul" else {}
    torch.testing.assert_close(selector(x_NCHW), by_hand(x_NCHW, *wide), **tolerance)


@both_widths
def test_16_bit_layers_are_supported(dtype):
    class Bfloat16(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer.bfloat16()

        def forward(self, x):
            return self.layer(x.bfloat16())

    for name in ("reduce", "expand"):
        block = make_block(dtype)
        setattr(block.selector, name, Bfloat16(block.selector.get_submodule(name)))
        train(block, dtype)
        assert block.selector(images(dtype)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
def test_dynamic_quantization_is_supported(dtype):
    model, x_NCHW = convert_(build("resnet18")).eval(), torch.rand(2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=dtype)
        assert type(quantized.layer4[1].selector.reduce) is torch.ao.nn.quantized.dynamic.Linear
        with torch.no_grad():
            torch.testing.assert_close(quantized(x_NCHW), model(x_NCHW), atol=0.02, rtol=0.02)
            with torch.autocast("cpu", torch.bfloat16):
                assert quantized.layer4[1].selector(torch.rand(1, 512, 2, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    combinations(
        dtype=(torch.float32, torch.bfloat16),
        precision=(None, MixedPrecisionPolicy(param_dtype=torch.bfloat16)),
        names=(("reduce", "expand"), ("reduce",), ("expand",)),
    ),
    ids=str,
)
def test_fsdp2_layers_are_supported(options, tmp_path):
    dtype, precision, names = options.values()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        block, x_NCHW = make_block(dtype), images(dtype)
        expected = by_hand(x_NCHW, block.selector.reduce.weight, block.selector.expand.weight)
        for name in names:
            policy = {} if precision is None else {"mp_policy": precision}
            fully_shard(block.selector.get_submodule(name), **policy)
        tolerance = {} if precision is None else {"atol": 0.02, "rtol": 0.02}
        torch.testing.assert_close(block.selector(x_NCHW), expected, **tolerance)
        train(block, dtype)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("backend", ["pytorch", "aten"])
def test_flop_counters_count_the_layers(backend):
    macs, _ = get_model_complexity_info(
        ChannelSelector(C, 8), (C, 5, 5), backend=backend, as_strings=False, print_per_layer_stat=False
    )
    assert macs == 2 * C * 8
    sizes = count_modules(build("resnet18_mod"))
    assert sizes["layer4.1.selector.reduce"].gmacs == sizes["layer4.1.selector.expand"].gmacs == 512 * 32 / 1e9


@both_widths
def test_traced_graphs_call_the_layers(dtype):
    model, x_NCHW = nn.Sequential(nn.Identity(), make_block(dtype)).eval(), images(dtype)
    traced, seen = torch.fx.symbolic_trace(model), []
    traced.graph.lint()
    model[1].selector.reduce.register_forward_hook(lambda *_: seen.append(1))
    prune.l1_unstructured(model[1].selector.expand, "weight", 0.5)
    assert torch.equal(traced(x_NCHW), model(x_NCHW))
    assert len(seen) == 2


@both_widths
def test_exported_graphs_accept_any_batch_and_image_size(dtype):
    block, batch = make_block(dtype).eval(), torch.export.Dim("batch")
    sizes = {0: batch, 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.export.export(block, (images(dtype),), dynamic_shapes=(sizes,))
    for shape in ((2, C, 7, 4), (1, C, 5, 5)):
        x_NCHW = torch.randn(shape).to(dtype)
        torch.testing.assert_close(program.module()(x_NCHW), block(x_NCHW))


def test_state_dict_has_two_weights():
    assert list(ChannelSelector(C, 8).state_dict()) == ["reduce.weight", "expand.weight"]


@pytest.mark.parametrize("select", ["learned", "random", "first"])
def test_torchscript_raises(select):
    model, x_NCHW = nn.Sequential(nn.Conv2d(C, C, 1), make_block(select=select)).eval(), images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated
        with pytest.raises(ValueError, match=r"^torch\.jit\.trace does not support MoD blocks; use torch\.export on"):
            torch.jit.trace(model, x_NCHW)
        with pytest.raises(ValueError, match=r"^torch\.jit\.script does not support MoD blocks; use torch\.export on"):
            torch.jit.script(model)
    model(x_NCHW)  # the model still works

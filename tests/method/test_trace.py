import logging

import numpy as np
import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from cnnmod import MoDConfig, convert_, find_modules, lower, mod_blocks, plan
from cnnmod.method.trace import example_for, meta_forward, trace
from cnnmod.networks import build
from conftest import trained_norms_


def test_network_is_unchanged():
    model = build("resnet18").train()
    model.layer1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert meta_forward(model).shape == (1, 1000)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert not any(module._forward_hooks for module in model.modules())


def test_network_is_unchanged_after_an_error():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(5, 5)).train()
    with pytest.raises(ValueError, match=r"Sequential does not run on an example of shape \(1, 3, 224, 224\) on cpu: "):
        trace(model, lambda run: run(lambda *_: None))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_example_has_the_shape_and_dtype_of_the_network():
    assert example_for(build("resnet18_cifar", in_chans=5)).shape == (1, 5, 32, 32)
    assert example_for(nn.Conv2d(7, 8, 3)).shape == (1, 7, 224, 224)
    assert example_for(nn.Conv2d(7, 8, 3).half()).dtype == torch.float16
    in_two = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1).bfloat16())
    assert example_for(in_two).dtype == torch.float32
    with pytest.raises(ValueError, match="Linear has no convolution"):
        example_for(nn.Linear(2, 2))


def test_too_small_input_raises():
    with pytest.raises(ValueError, match=r"VGG does not run on an example of shape \(1, 3, 8, 8\) on cpu: "):
        meta_forward(build("vgg16_bn_cifar"), torch.zeros(1, 3, 8, 8))


def test_in_chans_overrides_the_first_convolution():
    # The network moves pixels to channels before its first convolution.
    assert example_for(build("tresnet_m")).shape == (1, 3, 224, 224)


class Keeping(nn.Module):
    """A network that caches a grid and counts its calls."""

    def __init__(self):
        super().__init__()
        self.conv, self.grid, self.grids, self.calls = nn.Conv2d(3, 3, 1), None, [], 0
        self.alias = self.grids

    def forward(self, x):
        if self.grid is None:
            self.grid = torch.linspace(0, 1, x.shape[-1], device=x.device)
        self.grids.append(self.grid)
        self.calls += 1
        self.extra = self.grid
        return self.conv(x) * self.grid


def test_attributes_set_by_the_pass_are_restored():
    model = Keeping()
    meta_forward(model, torch.rand(1, 3, 8, 8))
    assert (model.grid, model.grids, model.calls) == (None, [], 0)
    assert model.alias is model.grids
    assert not hasattr(model, "extra")
    model(torch.rand(1, 3, 8, 8))


def test_overridden_train_is_not_called():
    class Merging(nn.Sequential):
        def train(self, mode=True):
            raise AssertionError("train was called, which would change the weights")

    model = Merging(nn.Conv2d(3, 3, 1))
    meta_forward(model)
    assert model.training


def test_example_that_is_not_a_tensor_raises():
    with pytest.raises(ValueError, match=r"example must be a tensor \(N, C, H, W\) or None, not tuple"):
        meta_forward(nn.Conv2d(3, 3, 1), (1, 3, 8, 8))


class Body(nn.Module):
    """(N, 3, H, W) → (N, 5). Its second block can be a MoD block."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 16))
        self.head = nn.Linear(16, 5)
        self.mean = torch.rand(1, 3, 1, 1)  # neither a parameter nor a buffer
        self.grids, self.anchors = {}, None

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class PlainTensor(Body):
    def forward(self, x):
        return super().forward(x - self.mean)


class NewTensor(Body):
    def forward(self, x):
        return super().forward(x - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))


class FromNumpy(Body):
    def forward(self, x):
        return super().forward(x - torch.from_numpy(np.full((1, 3, 1, 1), 0.5, dtype=np.float32)))


class IntoNumpy(Body):
    def forward(self, x):
        return super().forward(x / x.numpy().max())


class Anchors(Body):
    """A network that caches a grid and anchors, as YOLO's head does."""

    def forward(self, x):
        if self.anchors is None or tuple(x.shape[-2:]) not in self.grids:
            self.anchors = torch.tensor([[0.5, 0.5]]) * x.shape[-1]
            self.grids[tuple(x.shape[-2:])] = torch.arange(x.shape[-1], device=x.device) * self.anchors[0, :1]
        return super().forward(x + self.grids[tuple(x.shape[-2:])] * 1e-3)


class IsNan(Body):
    def forward(self, x):
        if x.isnan().any():
            raise ValueError("the images have NaNs")
        return super().forward(x)


class Item(Body):
    def forward(self, x):
        return super().forward(x) * x.max().item()


class Assert(Body):
    def forward(self, x):
        if not (x >= 0).all():  # not an assert statement, since pytest rewrites it
            raise AssertionError("images are not negative")
        return super().forward(x)


@torch.library.custom_op("cnnmod_tests::halve", mutates_args=())
def halve(x: torch.Tensor) -> torch.Tensor:
    return x / 2


class Custom(Body):
    """A network that calls an operator without a kernel for the meta device."""

    def forward(self, x):
        return super().forward(halve(x))


class InABlock(nn.Module):
    """A network whose blocks need values."""

    class Block(BasicBlock):
        def forward(self, x):
            return super().forward(x * (1 if x.isnan().any() else 2))

    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 16, 3), nn.Sequential(*(self.Block(16, 16) for _ in range(4)))

    def forward(self, x):
        return self.blocks(self.stem(x)).mean((2, 3))


class InAList(Body):
    """A network with layers in a plain list, which are in training mode."""

    def __init__(self):
        super().__init__()
        self.before = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))]

    def forward(self, x):
        return super().forward(self.before[0](x))


ASKING = [
    PlainTensor,
    NewTensor,
    FromNumpy,
    IntoNumpy,
    Anchors,
    IsNan,
    Item,
    Assert,
    Custom,
    InABlock,
    InAList,
]
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def attributes(model):
    return {
        (path, name): (id(value), repr(value))
        for path, module in model.named_modules()
        for name, value in vars(module).items()
    }


@pytest.mark.parametrize("network", ASKING)
def test_networks_that_need_values_run_once_on_their_device(network, caplog):
    model = trained_norms_(network()).train()
    calls = []
    for layer in model.modules():
        layer.register_forward_hook(lambda *_: calls.append("after"))
        layer.register_forward_pre_hook(lambda *_: calls.append("before"))
    before, state = attributes(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    config = MoDConfig(c=4)
    with caplog.at_level(logging.INFO, "cnnmod"):
        assert trace(model, lambda run: run(), IMAGES).shape[0] == 2
        find_modules(model, IMAGES)
        made = plan(model, config, example=IMAGES)
    said = f"{network.__name__} does not run without values; its shapes are from one forward pass on cpu"
    assert [record.getMessage() for record in caplog.records] == [said]
    assert attributes(model) == before
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not calls
    assert made.mod_blocks == []  # blocks with hooks are not converted
    model = trained_norms_(convert_(network(), config, example=IMAGES))
    assert mod_blocks(model)
    with torch.inference_mode():
        torch.testing.assert_close(lower(model, example=IMAGES)(IMAGES), model(IMAGES), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("network", [PlainTensor, Anchors, Item, Custom])
def test_pass_with_values_observes_the_same_as_a_meta_pass(network):
    def seen(model, run):
        calls = []
        run(lambda name, _, args, kwargs, output: calls.append((name, args[0].shape, args[0].dtype, output.shape)))
        return calls[:-1]

    plain, asking = (trace(model, lambda run, model=model: seen(model, run), IMAGES) for model in (Body(), network()))
    assert plain == asking


def test_error_names_the_device_of_the_user():
    class Wrong(PlainTensor):
        def forward(self, x):
            return self.head(super().forward(x))

    with pytest.raises(
        ValueError, match=r"^Wrong does not run on an example of shape \(2, 3, 32, 32\) on cpu: "
    ) as info:
        meta_forward(Wrong(), IMAGES)
    assert "meta" not in str(info.value)
    assert "\n" not in str(info.value)


def test_error_without_message_names_its_class():
    class Silent(Body):
        def forward(self, x):
            if x.sum().item():
                raise AssertionError

    class Missing(Body):
        def forward(self, x):
            return {}[x.sum().item() * 0]

    with pytest.raises(ValueError, match=r"on cpu: AssertionError$"):
        meta_forward(Silent())
    with pytest.raises(ValueError, match=r"on cpu: KeyError 0\.0$"):
        meta_forward(Missing())


def test_network_without_values_raises_only_if_it_needs_them():
    with torch.device("meta"):
        model = Item()
    with pytest.raises(ValueError, match=r"Item does not run on an example .* on meta: "):
        plan(model, example=IMAGES)
    model = Item()
    model.head.to("meta")
    with pytest.raises(ValueError, match=r"Item does not run without values, but head\.weight is on the meta device"):
        plan(model, example=IMAGES)
    with torch.device("meta"):
        assert plan(Body(), MoDConfig(c=4), example=IMAGES).mod_blocks == ["blocks.1"]


def test_half_precision_network_runs():
    model = PlainTensor().bfloat16()
    model.mean = model.mean.bfloat16()
    assert meta_forward(model).dtype == torch.bfloat16


def test_dtype_of_the_example_is_used():
    class Bytes(PlainTensor):
        def forward(self, x):
            if x.dtype != torch.uint8:
                raise ValueError(f"images are bytes, not {x.dtype}")
            return super().forward(x / 255)

    images = (IMAGES * 255).to(torch.uint8)
    model = convert_(Bytes(), MoDConfig(c=4), example=images)
    assert list(mod_blocks(model)) == ["blocks.1"]
    with pytest.raises(ValueError, match=r"images are bytes, not torch\.float32"):
        convert_(Bytes())


def test_example_is_not_changed():
    class Normalizing(PlainTensor):
        def forward(self, x):
            return super().forward(x.sub_(x.mean().item()))

    images = IMAGES.clone()
    meta_forward(Normalizing(), images)
    assert torch.equal(images, IMAGES)


@pytest.mark.parametrize("spoil", [prune.identity, spectral_norm, weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("network", [Body, PlainTensor])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # deprecated in torch, but still used
def test_weight_hooks_are_called(spoil, network):
    """Without the hooks, the pass would use the weight that the last call computed, which is not on the meta device."""
    model = network()
    spoil(model.stem, "weight")
    if spoil is not parametrizations.weight_norm:  # all others are hooks
        vars(model.stem)["weight"] = torch.zeros(1)
    before = attributes(model)
    assert meta_forward(model, IMAGES).shape == (2, 5)
    assert attributes(model) == before


def test_global_hooks_are_not_called():
    calls = []
    handles = [
        nn.modules.module.register_module_forward_hook(lambda *_: calls.append("after")),
        nn.modules.module.register_module_forward_pre_hook(lambda *_: calls.append("before")),
    ]
    try:
        meta_forward(Body(), IMAGES)
        meta_forward(Item(), IMAGES)
        assert not calls
        Body()(IMAGES)
        assert calls
    finally:
        for handle in handles:
            handle.remove()


def test_forward_that_calls_cnnmod_raises():
    class Asking(Body):
        def forward(self, x):
            find_modules(self)
            return super().forward(x)

    with pytest.raises(ValueError, match="Asking is already running; do not call cnnmod from the model's own forward"):
        plan(Asking(), example=IMAGES)


def test_error_of_the_observer_is_not_changed():
    def refuse(*_):
        raise ValueError("not this layer")

    for model in (Body(), Item()):
        with pytest.raises(ValueError, match=r"^not this layer$"):
            trace(model, lambda run: run(refuse), IMAGES)


def test_several_inputs_raise():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Body()

        def forward(self, x, mask, *, scale=1):
            return self.body(x * mask * scale)

    class One(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x, x.new_ones(1))

    message = (
        r"^Two's forward takes x, mask, scale, but cnnmod calls it with one tensor \(N, C, H, W\); wrap the network"
    )
    model = Two()
    for run in (find_modules, plan, convert_, lower):
        with pytest.raises(ValueError, match=message):
            run(model, example=IMAGES)
    assert list(mod_blocks(convert_(One(model), MoDConfig(c=4), example=IMAGES))) == ["network.body.blocks.1"]
    assert list(mod_blocks(model)) == ["body.blocks.1"]


def test_uninitialized_lazy_layers_raise():
    with pytest.raises(ValueError, match=r"^0.weight has no shape yet; run the network once"):
        convert_(nn.Sequential(nn.LazyConv2d(8, 3), nn.Conv2d(8, 8, 3)))

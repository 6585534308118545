"""Lowered networks compute the same for every size, batch size and memory format, although blocks overwrite inputs."""

import numpy as np
import pytest
import torch
from timm import create_model
from timm.models.resnet import BasicBlock
from torch import nn
from torch.nn.functional import pad
from torchvision.models import convnext_tiny, mobilenet_v2, resnet18, vgg11_bn

from cnnmod import MoDConfig, convert_, lower, mod_blocks
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.in_place import InPlaceSequential
from cnnmod.networks import build
from conftest import trained_norms_
from matrix import combinations

EXAMPLE = torch.rand(2, 16, 8, 8)
FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture
def overwritten(monkeypatch):
    """The MoD blocks that overwrote their input, in order."""
    blocks = []
    plain = EagerForm.may_overwrite

    def may_overwrite(self):  # called only if nothing else holds the input
        if may := plain(self):
            blocks.append(self)
        return may

    monkeypatch.setattr(EagerForm, "may_overwrite", may_overwrite)
    return blocks


NETWORKS = {
    "cifar": lambda: build("resnet18_cifar_mod"),
    "resnet": lambda: build("resnet18_mod"),
    "mobilenetv2": lambda: build("mobilenetv2_mod"),
    "vgg": lambda: build("vgg16_bn_cifar_mod"),
    "torchvision resnet": lambda: convert_(resnet18()),
    "torchvision mobilenetv2": lambda: convert_(mobilenet_v2()),
    "torchvision vgg": lambda: convert_(vgg11_bn()),
    "torchvision convnext": lambda: convert_(convnext_tiny()),
    "timm seresnet": lambda: convert_(create_model("seresnet50")),
    "backbone": lambda: build("resnet18_mod", features_only=True),
    "fcn": lambda: build("fcn", backbone="resnet18_mod", num_classes=3),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("resnet", "vgg", "backbone") else pytest.mark.slow) for name in NETWORKS],
)
def test_mod_blocks_in_sequentials_overwrite_their_input(name, overwritten):
    """These networks consist of plain `Sequential`s."""
    model = NETWORKS[name]().eval()
    lowered = lower(model)
    blocks = [block for block in mod_blocks(lowered).values() if isinstance(block, EagerForm)]
    assert blocks or "convnext" in name
    for images in (1, 2):
        with torch.inference_mode():
            lowered(torch.rand(images, 3, 64, 64))
        assert overwritten == blocks
        overwritten.clear()


class Net(nn.Module):
    """A sequential of a standard block and a future MoD block. Subclasses use the feature map between the blocks."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 16))

    def forward(self, x):
        return self.blocks(x + 0)


class PaddedAtSomeSizes(Net):
    def forward(self, x):
        y = self.blocks[0](x)
        p = -x.shape[-1] % 8
        return y.mean((2, 3)) + self.blocks[1](pad(y, (0, p, 0, p)) if p else y).mean((2, 3))


class ClonedForOneImage(Net):
    def forward(self, x):
        y = self.blocks[0](x)
        return self.blocks[1](y.clone() if len(x) == 1 else y) + y


class InOneFormat(Net):
    def forward(self, x):
        y = self.blocks[0](x)
        return self.blocks[1](y.contiguous(memory_format=torch.channels_last)) + y


class InTheOtherFormat(Net):
    def forward(self, x):
        y = self.blocks[0](x)
        return self.blocks[1](y.contiguous()) * 2 + y


class Reshaped(Net):
    def forward(self, x):
        y = self.blocks[0](x)
        flat = y.reshape(len(y), -1)
        return self.blocks[1](y).flatten(1) + flat


class Sliced(Net):
    def forward(self, x):
        y = torch.cat([self.blocks[0](x)] * 2, 1)
        return self.blocks[1](y[:, :16]) + y[:, :16] + y[:1, 16:]


class SlicedRows(Net):
    def forward(self, x):
        y = self.blocks[0](x)
        return y.mean() + self.blocks[1](y[:, :, : 8 * (x.shape[2] // 8)]) + y.std()


class OtherDtype(Net):
    def forward(self, x):
        y = self.blocks[0](x)
        return self.blocks[1](y.to(torch.float32)) + y


class PaddedByNothing(Net):
    def forward(self, x):
        y = self.blocks[0](x)
        return self.blocks[1](pad(y, (0, 0, 0, 0))) + y


class ByValue(Net):
    def forward(self, x):
        y = self.blocks[0](x)
        return self.blocks[1](y if y.is_meta or y.mean() > 0 else y.clone()) + y


class Interpolated(Net):
    def forward(self, x):
        y = self.blocks[0](x)
        z = nn.functional.interpolate(y, size=(8, 8)) if x.shape[-1] != 8 else y
        return self.blocks[1](z).mean((2, 3)) + y.mean((2, 3)) + z.mean((2, 3))


class OneByOne(Net):
    """Call the blocks one by one, and keep the feature maps at some sizes."""

    def forward(self, x):
        kept = []
        for block in self.blocks:
            x = block(x)
            if x.shape[-1] > 8:
                kept.append(x)
        return x + sum(one.mean() for one in kept)


class Dilated(Net):
    def forward(self, x):
        return self.blocks[1](self.blocks[0](x).mean((2, 3), keepdim=True).expand_as(x))


NETS = [
    Net,
    PaddedAtSomeSizes,
    ClonedForOneImage,
    InOneFormat,
    InTheOtherFormat,
    Reshaped,
    Sliced,
    SlicedRows,
    OtherDtype,
    PaddedByNothing,
    ByValue,
    Interpolated,
    OneByOne,
    Dilated,
]


def converted(net=Net, between=None):
    model = trained_norms_(convert_(net(), MoDConfig(c=4), example=EXAMPLE))
    if between is not None:  # a layer between the two blocks
        model.blocks.insert(1, between)
    return model


def check(lowered, model, x_NCHW):
    before = x_NCHW.clone()
    with torch.inference_mode():
        torch.testing.assert_close(lowered(x_NCHW), model(x_NCHW), atol=1e-5, rtol=1e-5)
    assert torch.equal(x_NCHW, before)


def check_all(lowered, model):
    for size in (8, 12, 16):
        for images in (1, 2, 3):
            for memory_format in FORMATS:
                check(lowered, model, torch.rand(images, 16, size, size).contiguous(memory_format=memory_format))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    "example",
    [(2, 8), *(pytest.param(example, marks=pytest.mark.slow) for example in ((1, 8), (2, 12), (1, 16)))],
    ids=str,
)
def test_operations_between_two_blocks_do_not_change_the_result(net, example):
    images, size = example
    model = converted(net)
    check_all(lower(model, example=torch.rand(images, 16, size, size)), model)


class Keeps(nn.Module):
    """Return the input or a tensor that shares its memory, and keep another reference to the memory."""

    def __init__(self, passes, keeps):
        super().__init__()
        self.passes, self.keeps, self.kept = passes, keeps, []

    def forward(self, y):
        if y.is_meta:
            return y
        if self.keeps is not None:
            self.kept.append(self.keeps(y))
        return self.passes(y)


KEEPING = {
    "the tensor": lambda y: y,
    "a view": lambda y: y.flatten(2),
    "a slice": lambda y: y[:1],
    "an array": lambda y: y.numpy() if not y.is_inference() else y.detach().numpy(),
    "its storage": lambda y: y.untyped_storage(),
    "a capsule": lambda y: torch.utils.dlpack.to_dlpack(y),
    "a detached one": lambda y: y.detach(),
    "a function": lambda y: lambda: y,
    "a copy": lambda y: y.clone(),
}


@pytest.mark.parametrize("name", KEEPING)
def test_kept_references_are_not_overwritten(name, overwritten):
    model = converted(between=Keeps(lambda y: y, KEEPING[name]))
    lowered = lower(model, example=EXAMPLE)
    check_all(lowered, model)
    assert bool(overwritten) == (name == "a copy")
    for ours, theirs in zip(lowered.blocks[1].kept, model.blocks[1].kept, strict=True):
        if isinstance(ours, torch.Tensor):
            torch.testing.assert_close(ours, theirs)
        elif isinstance(ours, np.ndarray):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        elif isinstance(ours, torch.UntypedStorage):
            ours, theirs = (torch.tensor([], dtype=torch.float32).set_(one) for one in (ours, theirs))
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


ARRAY = np.ones((1, 16, 8, 8), np.float32)
CONSTANT = torch.ones(1, 16, 8, 8)
PASSING = {
    "itself": lambda y: y,
    "a view of all": lambda y: y.view_as(y),
    "a slice": lambda y: torch.cat([y, y], 1)[:, :16],
    "some rows": lambda y: y[..., ::2],
    "turned": lambda y: y.mT,
    "expanded": lambda y: y.mean((2, 3), keepdim=True).expand_as(y),
    "one image for all": lambda y: y[:1].expand_as(y),
    "an array's memory": lambda y: torch.from_numpy(ARRAY),
    "a constant": lambda y: CONSTANT,
    "a subclass": lambda y: y.as_subclass(Subclass),
    "a parameter": lambda y: nn.Parameter(y, requires_grad=False),
}


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("name", PASSING)
def test_views_and_shared_memory_are_not_overwritten(name):
    model = converted(between=Keeps(PASSING[name], None))
    check_all(lower(model, example=EXAMPLE), model)
    assert (ARRAY == 1).all()
    assert (CONSTANT == 1).all()


def test_images_are_not_overwritten():
    """The layers before the MoD block return the image itself."""
    model = converted()
    model.blocks[0] = nn.Sequential(nn.Identity(), nn.Dropout(0.5), nn.Flatten(0, 0))
    for network in (model, model.blocks):
        model.eval()
        check_all(lower(network, example=EXAMPLE), network)


@pytest.mark.parametrize(
    "options",
    combinations(
        kind=("forward", "pre", "global", "with_kwargs"),
        where=("", "blocks", "blocks.0", "blocks.1", "blocks.0.conv2", "blocks.1.conv_block", "blocks.1.selector"),
        when=("after", "before"),
    ),
    ids=str,
)
def test_hooks_see_unchanged_feature_maps(options):
    """The hooks keep the tensors until the forward pass has ended."""
    kind, where, when = options.values()
    model = converted(between=nn.Identity())
    model.blocks = nn.Sequential(model.blocks[0], model.blocks[2])
    seen = {}

    def keep(network):
        def hook(module, inputs, *rest):
            seen.setdefault(network, []).append((inputs[0], rest[-1] if rest else inputs[0], inputs[0].clone()))

        module = network.get_submodule(where)
        if kind == "forward":
            return module.register_forward_hook(hook)
        if kind == "with_kwargs":
            return module.register_forward_hook(lambda m, args, kwargs, output: hook(m, args, output), with_kwargs=True)
        if kind == "pre":
            return module.register_forward_pre_hook(hook)
        only = nn.modules.module.register_module_forward_hook
        return only(lambda m, inputs, output: hook(m, inputs, output) if m is module else None)

    if when == "before" and kind == "global":
        pytest.skip("a global hook compares with the original module, not with its copy")
    if when == "before":
        keep(model)
        lowered = lower(model, example=EXAMPLE)
        seen.clear()
        x_NCHW = torch.rand(2, 16, 8, 8)
        with torch.inference_mode():
            model(x_NCHW)
            theirs = seen.pop(model)
            lowered(x_NCHW)
        ours = seen.pop(model)  # the copy has the same hook functions
    else:
        lowered = lower(model, example=EXAMPLE)
        handles = [keep(model), keep(lowered)]
        x_NCHW = torch.rand(2, 16, 8, 8)
        with torch.inference_mode():
            model(x_NCHW)
            lowered(x_NCHW)
        for handle in handles:
            handle.remove()
        ours, theirs = seen[lowered], seen[model]
    assert len(ours) == len(theirs) > 0
    for (our_input, our_output, then), (their_input, their_output, _) in zip(ours, theirs, strict=True):
        assert torch.equal(our_input, then)
        torch.testing.assert_close(our_input, their_input, atol=1e-5, rtol=1e-5)
        if where not in ("blocks.0.conv2",):  # its norm is folded, so its output differs
            torch.testing.assert_close(our_output, their_output, atol=1e-5, rtol=1e-5)


def test_block_called_directly_does_not_change_its_input():
    lowered = lower(converted(), example=EXAMPLE)
    x_NCHW = torch.rand(2, 16, 8, 8)
    before = x_NCHW.clone()
    with torch.inference_mode():
        lowered.blocks[1](x_NCHW)
        lowered.blocks[1:](x_NCHW)
    assert torch.equal(x_NCHW, before)


def test_in_place_sequential_keeps_hooks_and_attributes():
    model = converted()
    model.blocks.register_forward_hook(lambda module, inputs, output: output + module.added)
    model.blocks.added = 3
    lowered = lower(model, example=EXAMPLE)
    assert isinstance(lowered.blocks, InPlaceSequential)
    check_all(lowered, model)
    assert type(model.blocks) is nn.Sequential


def test_training_mode_disables_overwriting(overwritten):
    """In training mode, feature maps are copied."""
    lowered = lower(converted(), example=EXAMPLE).train()
    with torch.no_grad():
        lowered(EXAMPLE)
    assert not overwritten


def test_lowered_network_works_outside_of_inference_mode():
    model = converted(between=MadeForInference())
    lowered = lower(model, example=EXAMPLE)
    with torch.no_grad():
        torch.testing.assert_close(lowered(EXAMPLE), model(EXAMPLE), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lowered(EXAMPLE), model(EXAMPLE), atol=1e-5, rtol=1e-5)


class MadeForInference(nn.Module):
    """Return an inference tensor, which cannot be changed outside of inference mode."""

    @torch.inference_mode()
    def forward(self, x):
        return x * 2


@pytest.mark.parametrize("backend", [pytest.param("eager", marks=pytest.mark.slow), "aot_eager"])
def test_network_lowered_for_eager_can_be_compiled(backend):
    model = converted()
    compiled = torch.compile(lower(model, example=EXAMPLE), fullgraph=True, backend=backend, dynamic=False)
    for images in (1, 2):
        check(compiled, model, torch.rand(images, 16, 8, 8))

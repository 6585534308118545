"""Batch norms are folded only if this is correct for every input, not only for the example."""

import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import nn
from torch.nn.utils import parametrizations, prune

from cnnmod import lower
from cnnmod.deploy.flow import foldable_norms
from cnnmod.networks import build
from conftest import trained_norms_

EXAMPLE = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18_mod", 20),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("mobilenetv2_mod", 52),
                ("resnet50_mod", 53),
                ("vgg16_bn_cifar_mod", 13),
                ("fcn_resnet50_mod", 57),
                ("faster_rcnn_resnet50_mod", 53),
            )
        ),
    ],
)
def test_all_norms_of_the_paper_networks_are_folded(name, count):
    norms = foldable_norms(build(name))
    assert len(norms) == count
    assert "resnet18" not in name or norms["layer1.1.conv_block.conv2"] == "layer1.1.conv_block.bn2"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.rest = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1)
        self.other = nn.BatchNorm2d(16)

    def forward(self, x):
        y = self.conv(x)
        return self.rest(self.end(self.norm(y), y, x))

    def end(self, z, y, x):
        return z


class Further(Net):
    """An optional argument decides whether the output of the convolution is returned."""

    def forward(self, x, raw=False):
        y = self.conv(x)
        z = self.norm(y)
        return y if raw else z


class Given(Net):
    def forward(self, x, mask=None):
        y = self.conv(x)
        z = self.norm(y)
        return z if mask is None else z + y * mask


class Inside(nn.Module):
    """A block without branches inside a network with branches."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        x = self.net(x[..., :8, :8] if x.shape[-1] > 8 else x)
        return x * 2 if len(x) == 1 else x


class OneByOne(nn.Module):
    """Call the layers of a sequential one by one, and keep the output of the convolution at some sizes."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())

    def forward(self, x):
        kept = 0
        for layer in self.layers:
            x = layer(x)
            if x.shape[-1] > 8:
                kept = kept + x.mean()
        return x + kept


def of(end, name="end"):
    """Return a subclass of `Net` with this method."""
    return type(end.__name__, (Net,), {name: end})


def plain(self, z, y, x):
    return z.relu()


def reads_it_too(self, z, y, x):
    return z + y


def reads_it_at_some_sizes(self, z, y, x):
    return z + y if x.shape[-1] > 8 else z


def reads_it_at_some_batches(self, z, y, x):
    return z + y if len(x) == 1 else z


def reads_it_in_one_format(self, z, y, x):
    return z if x.is_contiguous() else z + y


def reads_it_of_a_tensor(self, z, y, x):
    if isinstance(x, torch.Tensor) and x.shape[-1] > 8:
        z = z + y
    return z


def asks_torch(self, z, y, x):
    if torch.is_tensor(x) and x.shape[-1] > 8:
        z = z + y
    return z


def asks_carefully(self, z, y, x):
    try:
        large = bool(x.shape[-1] > 8)
    except Exception:  # the test is about a user's network with a broad except
        large = False
    return z + y if large else z


def asks_for_an_attribute(self, z, y, x):
    return z if hasattr(x, "a_tensor_has_no_such_thing") else z + y


def asks_for_a_number(self, z, y, x):
    try:
        large = int(x.shape[-1]) > 8
    except TypeError:
        large = False
    return z + y if large else z


def keeps_it(self, z, y, x):
    self.kept = y
    return z


def keeps_it_in_a_list(self, z, y, x):
    vars(self).setdefault("kept", []).append({"y": y})
    return z


def returns_it(self, z, y, x):
    return z + 0 * y.mean()


def reads_a_view(self, z, y, x):
    return z + y[:, :1]


def reads_its_weight(self, z, y, x):
    return z + self.conv.weight.sum()


def reads_the_norms_statistics(self, z, y, x):
    return z + self.norm.running_mean.mean()


def convolves_twice(self, z, y, x):
    return z + self.conv(x * 2)


def norms_twice(self, z, y, x):
    return z + self.norm(z)


def has_two_norms(self, z, y, x):
    return z + self.other(y)


ENDS = [end for end in list(globals().values()) if getattr(end, "__code__", None) and end.__code__.co_argcount == 4]
FOLDED = {plain}


def check(model):
    lowered = lower(model, example=EXAMPLE)
    for size in (8, 12):
        for images in (1, 2):
            for memory_format in (torch.contiguous_format, torch.channels_last):
                x_NCHW = torch.rand(images, 3, size, size).contiguous(memory_format=memory_format)
                with torch.inference_mode():
                    torch.testing.assert_close(lowered(x_NCHW), model(x_NCHW), atol=1e-5, rtol=1e-5)
                kept = [vars(one).pop("kept", []) for one in (lowered, model)]
                torch.testing.assert_close(*kept, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("end", ENDS)
def test_norm_is_folded_only_if_nothing_else_reads_the_convolution(end):
    model = trained_norms_(of(end)())
    assert bool(foldable_norms(model, EXAMPLE)) == (end in FOLDED)
    check(model)
    check(Inside(model).eval())


def test_blocks_inside_a_network_with_branches_are_folded():
    assert foldable_norms(Inside(Net()), EXAMPLE) == {"net.conv": "net.norm"}
    assert not foldable_norms(OneByOne(), EXAMPLE)
    check(trained_norms_(Inside(Net())))
    check(trained_norms_(OneByOne()))


@pytest.mark.parametrize("net", [Further, Given])
def test_optional_arguments_are_respected(net):
    model = trained_norms_(net())
    lowered = lower(model, example=EXAMPLE)
    option = {Further: True, Given: torch.ones(1)}[net]
    with torch.inference_mode():
        torch.testing.assert_close(lowered(EXAMPLE), model(EXAMPLE), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lowered(EXAMPLE, option), model(EXAMPLE, option), atol=1e-5, rtol=1e-5)


def test_block_called_twice_is_folded():
    class Twice(Inside):
        def forward(self, x):
            return self.net(self.net(x)) if len(x) > 5 else self.net(x) + self.net(x * 2)

    model = trained_norms_(Twice(Net()))
    assert foldable_norms(model, EXAMPLE) == {"net.conv": "net.norm"}
    check(model)


def test_shared_convolution_is_not_folded():
    model = nn.Sequential(Net(), Net())
    model[0].rest = nn.Conv2d(16, 3, 1)
    model[1].conv = model[0].conv
    model = trained_norms_(model)
    assert not foldable_norms(model, EXAMPLE)
    check(model)


def test_hooks_are_not_called_and_their_layers_are_not_folded():
    seen = []

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Sequential(nn.Conv2d(3, 16, 3)), nn.BatchNorm2d(16)

        def forward(self, x):
            return self.norm(self.first(x))

    model = trained_norms_(Around())
    assert foldable_norms(model, EXAMPLE) == {"first.0": "norm"}
    model.first.register_forward_hook(lambda module, inputs, output: seen.append(type(output)))
    assert not foldable_norms(model, EXAMPLE)
    check(model)
    assert set(seen) == {torch.Tensor}


def test_pruned_and_parametrized_convolutions_are_not_folded():
    for change in (lambda conv: prune.l1_unstructured(conv, "weight", 0.5), parametrizations.weight_norm):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        change(model[0])
        with torch.inference_mode():
            model(EXAMPLE)
        assert isinstance(lower(model, example=EXAMPLE)[1], nn.BatchNorm2d)
        check(model)


def test_norm_of_another_class_is_not_folded():
    class Own(nn.BatchNorm2d):
        """A user's norm with the same child names as timm's."""

        def __init__(self, channels):
            super().__init__(channels)
            self.drop, self.act = nn.Identity(), nn.ReLU()

        def forward(self, x):
            return self.act(super().forward(x)) + 1

    model = trained_norms_(nn.Sequential(nn.Conv2d(3, 4, 3), Own(4)))
    check(model)


def test_tracing_leaves_no_state():
    class Keeping(Net):
        def forward(self, x):
            self.grid = x[:1]
            return super().forward(x)

    model = Keeping().eval()
    lowered = lower(model, example=EXAMPLE)
    for one in (model, lowered):
        assert not hasattr(one, "grid")
    assert BasicBlock.forward.__module__ == "timm.models.resnet"
    assert not torch.fx._symbolic_trace.is_fx_tracing()

"""Names and values of the outputs of files, in each runtime."""

import dataclasses
import enum
from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, convert_, mod_blocks
from cnnmod.deploy.export import export
from cnnmod.deploy.lower import lower
from cnnmod.deploy.outputs import named_outputs, plain
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.targets.table import TARGETS, find_format
from conftest import trained_norms_
from small import shallow_resnet

EXAMPLE = torch.rand(2, 1, 8, 8)
FORMATS = ["onnx", "openvino", "pt2"]
Both = namedtuple("Both", "maps means")


@dataclasses.dataclass
class Output:
    logits: Any
    loss: Any = None
    features: Any = None


class ModelOutput(OrderedDict):
    """A dictionary that is also a dataclass and has no entries for `None`, as in Hugging Face's transformers."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)


@dataclasses.dataclass
class Hidden(ModelOutput):
    loss: Any = None
    logits: Any = None
    hidden_states: Any = None


class Part(enum.Enum):
    MAPS = "maps"


class Net(nn.Module):
    """Return a function of the images x, y (N, 4, H, W) and z (N, 4). The names of its tensors collide with outputs."""

    def __init__(self, returns):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.images = nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("logits", torch.arange(3.0))
        self.register_buffer("a", torch.rand(2))
        self.register_buffer("b", torch.rand(3))
        self.returns = returns

    def forward(self, x):
        y = self.conv(x) * self.images + self.logits.sum()
        return self.returns(self, x, y, y.mean((2, 3)))


# case → function that returns the outputs, function that returns the expected values by name
RETURNED = {
    "the issue's": (
        lambda net, x, y, z: {"loss": None, "logits": y, "f": [y * 2, y * 3]},
        lambda net, x, y, z: {"logits": y, "f.0": y * 2, "f.1": y * 3},
    ),
    "a classifier's": (lambda net, x, y, z: z, lambda net, x, y, z: {"logits": z}),
    "a map": (lambda net, x, y, z: y, lambda net, x, y, z: {"output": y}),
    "a scalar": (lambda net, x, y, z: y.mean(), lambda net, x, y, z: {"output": y.mean()}),
    "tuples": (
        lambda net, x, y, z: (y, None, [z, {"aux": -y}]),
        lambda net, x, y, z: {"output.0": y, "output.2.0": z, "output.2.1.aux": -y},
    ),
    "a named tuple": (lambda net, x, y, z: Both(y, z), lambda net, x, y, z: {"maps": y, "means": z}),
    "a dataclass": (
        lambda net, x, y, z: Output(z, features=(y, Both(-y, -z))),
        lambda net, x, y, z: {"logits": z, "features.0": y, "features.1.maps": -y, "features.1.means": -z},
    ),
    "Hugging Face's": (
        lambda net, x, y, z: Hidden(logits=z, hidden_states=(x, y)),
        lambda net, x, y, z: {"logits": z, "hidden_states.0": x, "hidden_states.1": y},
    ),
    "other mappings": (
        lambda net, x, y, z: UserDict({1: y, Part.MAPS: z, "empty": [], "none": {"at": None}}),
        lambda net, x, y, z: {"1": y, "maps": z},
    ),
    "twice": (
        lambda net, x, y, z: {"a": y, "b": y, "c": y.detach(), "d": y.view(-1, 4, 64), "e": y.view(-1, 4, 64)},
        lambda net, x, y, z: {"a": y, "b": y, "c": y, "d": y.flatten(2), "e": y.flatten(2)},
    ),
    "inputs and weights": (
        lambda net, x, y, z: {"x": x, "a": net.b, "b": net.a, "c": x, "logits": net.images, "images": y, "d": net.b},
        lambda net, x, y, z: {
            **{"x": x, "a": net.b, "b": net.a, "c": x, "logits": net.images, "images_1": y, "d": net.b}
        },
    ),
    "names of the graph's own": (
        lambda net, x, y, z: {"conv2d": x + 1, "mul": y, "add": y + 1, "clone": z, "clone_1": -z, "conv.weight": z + 1},
        lambda net, x, y, z: {
            **{"conv2d": x + 1, "mul": y, "add": y + 1, "clone": z, "clone_1": -z, "conv.weight": z + 1}
        },
    ),
    "names that collide": (
        lambda net, x, y, z: {
            "a.b": y,
            "a": {"b": z, "b_1": -z},
            "a.b_1": -y,
            0: z + 1,
            "0": z + 2,
            "x.selected": z + 3,
        },
        lambda net, x, y, z: {
            **{"a.b": y, "a.b_2": z, "a.b_1": -z, "a.b_1_1": -y, "0": z + 1, "0_1": z + 2, "x.selected_1": z + 3}
        },
    ),
    "odd characters": (
        lambda net, x, y, z: {
            "a b, c:0/é": y,
            "<&>\"'\\": z,
            "::": -z,
            "日本": -y,
            "a,b": y + 1,
            "a": y + 2,
            " ": z + 1,
        },
        lambda net, x, y, z: {
            **{"a b, c:0/é": y, "<&>\"'\\": z, "::": -z, "日本": -y, "a,b": y + 1, "a": y + 2, " ": z + 1}
        },
    ),
    "other types": (
        lambda net, x, y, z: (y.argmax(1), y > 0, y.half(), y.double(), (y * 50).int(), z.max(1), x.new_zeros(3, 0)),
        lambda net, x, y, z: {
            **{"output.0": y.argmax(1), "output.1": y > 0, "output.2": y.half(), "output.3": y.double()},
            **{"output.4": (y * 50).int(), "output.5.0": z.max(1)[0], "output.5.1": z.max(1)[1]},
            **{"output.6": x.new_zeros(3, 0)},
        },
    ),
    "no batch in front": (
        lambda net, x, y, z: {"turned": y.transpose(0, 1), "sum": y.sum(0), "flat": y.flatten(), "loss": y.sum()},
        lambda net, x, y, z: {"turned": y.transpose(0, 1), "sum": y.sum(0), "flat": y.flatten(), "loss": y.sum()},
    ),
}


QUICK = {
    *(("the issue's", kind) for kind in ("onnx", "pt2")),
    ("twice", "openvino"),
    ("inputs and weights", "onnx"),
    ("names that collide", "onnx"),
    ("a dataclass", "pt2"),
}


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        pytest.param(case, kind, marks=() if (case, kind) in QUICK else pytest.mark.slow)
        for case in RETURNED
        for kind in FORMATS
    ],
)
def test_every_output_has_its_name_and_value(case, kind, tmp_path):
    returns, named = RETURNED[case]
    net = Net(returns).eval()
    path = tmp_path / f"network{find_format(kind).suffix}"
    report = export(net, EXAMPLE, path, format=kind)
    assert report.largest_error < 1e-4
    run = find_format(kind).load(path, 1).run
    for count in (1, 3):
        images = torch.rand(count, 1, 8, 8)
        net.returns = named
        with torch.inference_mode():
            expected = net(images)
        found = run(images)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, atol=1e-3, rtol=1e-3, msg=lambda text, at=name: f"{at}: {text}"
            )


def test_pt2_returns_plain_python_containers(tmp_path):
    for number, (case, kept) in enumerate(
        (
            (
                lambda net, x, y, z: {"loss": None, "f": [y, (z, None)]},
                lambda y, z: {"loss": None, "f": [y, (z, None)]},
            ),
            (lambda net, x, y, z: Output(z, features=y), lambda y, z: {"logits": z, "loss": None, "features": y}),
            (lambda net, x, y, z: OrderedDict(a=Both(y, z)), lambda y, z: {"a": {"maps": y, "means": z}}),
        )
    ):
        net = Net(case).eval()
        export(net, EXAMPLE, tmp_path / f"{number}.pt2", format="pt2")
        found = torch.export.load(tmp_path / f"{number}.pt2").module()(EXAMPLE)
        with torch.no_grad():
            net.returns = lambda net, x, y, z, kept=kept: kept(y, z)
            expected = net(EXAMPLE)
        assert type(found) is dict
        torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_int8_files_keep_the_output_names(kind, tmp_path):
    """The returned feature maps are split into candidates and the rest."""

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = trained_norms_(convert_(shallow_resnet(), MoDConfig(c=4, candidates=1), example=EXAMPLE))

        def forward(self, images):
            maps = self.network.forward_features(images)
            return {"loss": None, "maps": maps, "again": maps, "logits": self.network.forward_head(maps)}

    model = Features().eval()
    source, path = tmp_path / f"float{find_format(kind).suffix}", tmp_path / f"int8{find_format(kind).suffix}"
    find_format(kind).write(lower(model, find_format(kind).name, example=EXAMPLE), EXAMPLE, source, dynamic_batch=True)
    find_format(kind).quantize(source, path, torch.rand(16, 1, 8, 8).requires_grad_())
    with torch.inference_mode():
        expected = named_outputs(model(EXAMPLE))
    selected = {f"{block}{SELECTED}" for block in mod_blocks(model)}
    for file, tolerance in ((source, 1e-4), (path, 0.3)):
        found = find_format(kind).load(file, 1, selected=True).run(EXAMPLE)
        assert found.keys() == expected.keys() | selected
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=tolerance * float(value.abs().max()), rtol=0)


class TestErrors:
    @pytest.mark.parametrize(
        "kind", ["onnx", *(pytest.param(one, marks=pytest.mark.slow) for one in ("openvino", "pt2"))]
    )
    @pytest.mark.parametrize(
        ("returns", "message"),
        [
            (
                lambda y: {"logits": y, "size": 8},
                "the network returns an int as 'size'; supported are tensors",
            ),
            (lambda y: (y, "text"), "the network returns a str as 'output.1'"),
            (lambda y: [y, {"ok": True}], "the network returns a bool as 'output.1.ok'"),
            (lambda y: [y, 0.5], "the network returns a float as 'output.1'"),
            (lambda y: {"shape": y.shape}, "the network returns an int as 'shape.0'"),
            (lambda y: {y}, "the network returns a set; supported are tensors and None, in dictionaries, lists"),
            (lambda y: iter([y]), "the network returns a list_iterator; "),
            (lambda y: {"a": object(), "y": y}, "the network returns an object as 'a'"),
            (lambda y: None, "the network returns no tensor but None; a file needs at least one"),
            (lambda y: {"a": [], "b": (None,)}, "the network returns no tensor but a dict; a file needs at least one"),
            (lambda y: [], "the network returns no tensor but a list"),
            (lambda y: {"": y}, "a dictionary with the key '', which cannot name an output"),
            (
                lambda y: {"a\nb": y},
                r"the key 'a\nb', which cannot name an output; supported keys are printable",
            ),
            (lambda y: {"\ud800": y}, r"the key '\ud800', which cannot"),
            (lambda y: {("a", 1): y}, "the key ('a', 1), which cannot"),
            (lambda y: {None: y}, "the key None, which cannot"),
        ],
    )
    def test_unsupported_outputs_raise(self, returns, message, kind, tmp_path):
        net = Net(lambda net, x, y, z: returns(y)).eval()
        with pytest.raises(ValueError, match=r"^the network returns") as caught:
            export(net, EXAMPLE, tmp_path / f"network{find_format(kind).suffix}", format=kind)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not [*tmp_path.iterdir()]

    @pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
    def test_dtypes_that_numpy_does_not_have_raise(self, kind, tmp_path):
        for returns, dtype in ((lambda y: y.bfloat16(), "bfloat16"), (lambda y: torch.complex(y, y), "complex64")):
            net = Net(lambda net, x, y, z, returns=returns: {"a": y, "b": returns(y)}).eval()
            with pytest.raises(ValueError, match=rf"the network returns torch\.{dtype} as 'b'; ONNX and OpenVINO"):
                export(net, EXAMPLE, tmp_path / f"network{find_format(kind).suffix}", format=kind)
            assert not [*tmp_path.iterdir()]
            export(net, EXAMPLE, tmp_path / "network.pt2", format="pt2")
            (tmp_path / "network.pt2").unlink()


def test_network_is_unchanged(tmp_path):
    net = Net(lambda net, x, y, z: Output(z)).eval()
    export(net, EXAMPLE, tmp_path / "network.onnx")
    assert not net._forward_hooks
    assert isinstance(net(EXAMPLE), Output)


def test_list_of_dictionaries_is_not_a_detector(tmp_path):
    net = Net(lambda net, x, y, z: [{"logits": z}, {"logits": -z}]).eval()
    export(net, EXAMPLE, tmp_path / "network.pt2", format="pt2")
    assert TARGETS["pt2"].load(tmp_path / "network.pt2", 1).run(EXAMPLE).keys() == {
        "output.0.logits",
        "output.1.logits",
    }


def test_plain_returns_plain_values_unchanged():
    y = torch.rand(1)
    assert plain(y) is y
    assert plain({"a": [y, (None, 1)]}) == {"a": [y, (None, 1)]}

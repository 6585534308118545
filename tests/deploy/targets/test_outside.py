"""A user's target that runs files with NumPy is exported, checked and timed without changes to cnnmod."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import cnnmod
from cnnmod import MoDConfig, compare, convert_
from cnnmod.__main__ import main
from cnnmod.deploy import FileTarget, register_target
from cnnmod.deploy.graph_forms import GraphForm
from cnnmod.deploy.outputs import named_outputs
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.targets.table import TARGETS
from conftest import trained_norms_
from small import tiny_network

EXAMPLE = torch.rand(1, 1, 8, 8)


class NumPyTarget(FileTarget):
    """Files in .npz format with the weights and the graph of torch.export as JSON."""

    name = "numpy"
    forms = (GraphForm,)
    packages = ("numpy",)
    format = "npz"
    suffix = ".npz"

    def write(self, lowered, example, path, *, dynamic_batch, half=False):
        images = example[:1].repeat(2, 1, 1, 1) if dynamic_batch else example
        shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
        program = torch.export.export(_Positional(lowered), (images,), dynamic_shapes=shapes)
        program = program.run_decompositions({})
        arrays = {name: value.detach().numpy() for name, value in program.state_dict.items()}
        arrays |= {name: value.detach().numpy() for name, value in program.constants.items()}
        inputs = program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers
        inputs |= program.graph_signature.inputs_to_lifted_tensor_constants
        steps = []
        for node in program.graph.nodes:
            if node.op == "call_function":
                stack = list(node.meta.get("nn_module_stack", {}).values())
                block = stack[-1][0].removeprefix("network.") if stack else ""
                operator = getattr(node.target, "__name__", str(node.target))
                steps.append([node.name, operator, _plain(node.args), _plain(dict(node.kwargs)), block])
        (returned,) = program.graph.find_nodes(op="output")
        graph = {
            "images": program.graph_signature.user_inputs[0],
            "weights": inputs,
            "steps": steps,
            "outputs": _plain(returned.args[0]),
            "names": list(named_outputs(lowered(images))),
        }
        with path.open("wb") as file:
            np.savez(file, __graph__=np.array(json.dumps(graph)), **arrays)

    def load(self, path, threads, precision="float32", *, selected=False):
        return NumPyNetwork(path, selected)

    def operators(self, path):
        with np.load(path) as arrays:
            steps = json.loads(str(arrays["__graph__"]))["steps"]
        return dict(Counter(operator for _, operator, *_ in steps).most_common())


class _Positional(torch.nn.Module):
    """A network whose forward takes only the images."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images)


def _plain(value):
    """JSON of a node's arguments; a node is {"node": name}."""
    if isinstance(value, torch.fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if isinstance(each, (int, float, torch.fx.Node))}
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def _conv2d(x, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), transposed=False, out=(), groups=1):
    assert not transposed
    assert tuple(dilation) == (1, 1)
    vertical, horizontal = padding
    x = np.pad(x, ((0, 0), (0, 0), (vertical, vertical), (horizontal, horizontal)))
    patches = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    patches = patches[:, :, :: stride[0], :: stride[1]]
    grouped = patches.reshape(x.shape[0], groups, -1, *patches.shape[2:])
    kernels = weight.reshape(groups, -1, *weight.shape[1:])
    y = np.einsum("ngchwij,gocij->ngohw", grouped, kernels, optimize=True)
    y = y.reshape(x.shape[0], weight.shape[0], *y.shape[3:])
    return (y if bias is None else y + bias[:, None, None]).astype(np.float32)


def _topk(x, k, dim=-1, largest=True, sorted=True):
    index = np.argsort(-x, axis=dim, kind="stable").take(range(k), axis=dim)
    return np.take_along_axis(x, index, dim), index


def _slice(x, dim=0, start=None, end=None, step=1):
    places = [slice(None)] * x.ndim
    places[dim] = slice(start, end, step)
    return x[tuple(places)]


def _sigmoid(x):
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)


OPERATORS = {
    "conv2d": _conv2d,
    "convolution": _conv2d,
    "relu": lambda x: np.maximum(x, 0),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "mean": lambda x, dim, keepdim=False: x.mean(tuple(dim), keepdims=keepdim, dtype=np.float32),
    "adaptive_avg_pool2d": lambda x, size: x.mean((2, 3), keepdims=True) if size == [1, 1] else None,
    "linear": lambda x, weight, bias=None: x @ weight.T + (0 if bias is None else bias),
    "addmm": lambda bias, x, y: bias + x @ y,
    "mm": lambda x, y: x @ y,
    "permute": np.transpose,
    "view": lambda x, shape: x.view(np.int32) if shape == "torch.int32" else x.reshape(shape),
    "_to_copy": lambda x, **kwargs: x,
    "detach": lambda x: x,
    "clone": lambda x: x,
    "alias": lambda x: x,
    "topk": _topk,
    "getitem": lambda values, place: values[place],
    "gather": lambda x, dim, index: np.take_along_axis(x, index, dim),
    "index_select": lambda x, dim, index: x.take(index, axis=dim),
    "sigmoid": _sigmoid,
    "unsqueeze": np.expand_dims,
    "slice": _slice,
    "arange": np.arange,
    "isnan": np.isnan,
    "masked_fill": lambda x, mask, value: np.where(mask, value, x).astype(x.dtype),
    "sym_size": lambda x, dim: x.shape[dim],
    "__rshift__": lambda x, bits: x >> bits,
    "__and__": lambda x, bits: x & np.array(bits, x.dtype),
    "bitwise_and": lambda x, bits: x & np.array(bits, x.dtype),
    "bitwise_xor": lambda x, y: x ^ y,
    "__xor__": lambda x, y: x ^ y,
    "_assert_tensor_metadata": lambda *args, **kwargs: None,
    "eq": lambda x, y: x == y,
    "ge": lambda x, y: x >= y,
    "_assert_scalar": lambda *args: None,
}


class NumPyNetwork:
    """A loaded file. It is run node by node."""

    def __init__(self, path: Path, selected: bool) -> None:
        with np.load(path) as arrays:
            self.graph = json.loads(str(arrays["__graph__"]))
            self.weights = {node: arrays[name] for node, name in self.graph["weights"].items()}
        self.selected = selected

    def __call__(self, images_NCHW):
        return self.run(images_NCHW)

    def run(self, images_NCHW):
        values = {self.graph["images"]: images_NCHW.numpy(), **self.weights}
        selected = {}

        def at(value):
            if isinstance(value, dict) and "node" in value:
                return values[value["node"]]
            return [at(each) for each in value] if isinstance(value, list) else value

        for name, operator, args, kwargs, block in self.graph["steps"]:
            kind = operator.split(".")[0]
            args = at(args)
            given = {key: at(value) for key, value in kwargs.items()} if kind in ("mean", "slice") else {}
            values[name] = OPERATORS[kind](*args, **given)
            if kind == "topk" and self.selected:
                selected[f"{block}{SELECTED}"] = torch.from_numpy(values[name][1])
        outputs = zip(self.graph["names"], at(self.graph["outputs"]), strict=True)
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in outputs} | selected


@pytest.fixture
def registered():
    register_target(NumPyTarget)
    yield
    del TARGETS["numpy"]


def network():
    return trained_norms_(convert_(tiny_network(), MoDConfig(c=4), example=EXAMPLE)).eval()


@pytest.mark.usefixtures("registered")
def test_user_target_exports_and_is_checked(tmp_path):
    model = network()
    report = cnnmod.export(model, EXAMPLE, tmp_path / "network.npz")
    assert report.format == "npz"
    assert report.form == "GraphForm"
    assert report.largest_error < 1e-5
    assert (report.selection_agreement, report.tied_agreement) == (1, 1)
    assert report.operators["topk.default"] == len(cnnmod.mod_blocks(model)) > 0
    assert report.versions["numpy"] == np.__version__


@pytest.mark.usefixtures("registered")
def test_wrong_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(OPERATORS, "sigmoid", lambda x: _sigmoid(x) * 0.5)
    with pytest.raises(ValueError, match="the file does not compute the same as the network"):
        cnnmod.export(network(), EXAMPLE, tmp_path / "network.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("registered")
def test_user_target_is_timed_by_compare():
    models = {"dense": tiny_network(), "mod": network()}
    comparison = compare(models, EXAMPLE, runtimes=("eager", "numpy"), rounds=2)
    assert comparison.conditions == [("eager", 1), ("numpy", 1)]
    assert all(min(one.times_ms) > 0 for row in comparison.rows for one in row.measurements)


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_user_target_works_on_the_command_line(tmp_path, monkeypatch, capsys):
    names = ["small:tiny_network_mod", "--against", "small:tiny_network", "--size", "8"]
    monkeypatch.setattr("sys.argv", ["cnnmod", "compare", *names, "--runtimes", "numpy", "--rounds", "1", "--json"])
    main()
    ratios = json.loads(capsys.readouterr().out)["ratios"]
    assert {ratio["runtime"] for ratio in ratios} == {"numpy"}
    arguments = ["small:tiny_network_mod", "--size", "8", "8", "--out", str(tmp_path / "network.npz")]
    monkeypatch.setattr("sys.argv", ["cnnmod", "export", *arguments])
    main()
    assert (tmp_path / "network.npz").stat().st_size > 0

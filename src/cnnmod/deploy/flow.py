"""Find the pairs of a convolution and a batch norm that can be folded."""

import copy
from collections import Counter
from collections.abc import Iterator
from inspect import Parameter, signature
from typing import Any

import torch.fx
from torch import Tensor, nn

from cnnmod.deploy.straight import StraightTracer
from cnnmod.method.passes import Pass
from cnnmod.method.trace import trace


def foldable_norms(model: nn.Module, example: Tensor | None = None) -> dict[str, str]:
    """Return the convolutions whose output is read only by a batch norm, as a dictionary from convolution to norm.

    The pairs are found in the graph of a forward pass without branches, since they must be valid for all sizes, batch
    sizes and memory formats. If the forward pass of a module has branches, or a module has hooks, its own pairs are not
    folded, but modules inside of it are still searched.

    Raises:
        ValueError: If the network does not run on the example.
    """
    calls = trace(model, _count_calls, example)
    # A forward pass can store values in attributes, so a copy is traced. It shares the weights.
    shared = {id(tensor): tensor for tensors in (model.parameters(), model.buffers()) for tensor in tensors}
    model = copy.deepcopy(model, shared)
    norms: dict[str, str] = {}
    remaining = [""]
    while remaining:
        name = remaining.pop()
        module = model.get_submodule(name)
        if not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):
            continue
        pairs, opaque = _read(module)
        prefix = f"{name}." if name else ""
        remaining += [prefix + inner for inner in opaque]
        for conv, norm in pairs.items():
            if calls[prefix + conv] == calls[prefix + norm] == calls[name] > 0:  # nothing else calls them
                norms[prefix + conv] = prefix + norm
    return norms


def _count_calls(run: Pass) -> Counter[str]:
    calls: Counter[str] = Counter()

    def record(name: str, *_: Any) -> None:
        calls[name] += 1

    run(record)
    return calls


def _read(module: nn.Module) -> tuple[dict[str, str], list[str]]:
    """Return the pairs in a module's graphs, and the names of inner modules that must be read separately."""
    pairs: list[set[tuple[str, str]]] = []
    opaque: list[str] = []
    for arguments in _ways_to_call(module):
        tracer = StraightTracer((nn.Conv2d, nn.BatchNorm2d))
        if (graph := tracer.trace_straight(module, arguments)) is None:
            return {}, [name for name, _ in module.named_children()]
        pairs.append(set(_pairs(module, tracer, graph)))
        opaque += tracer.opaque
    return dict(set.intersection(*pairs)), opaque


def _ways_to_call(module: nn.Module) -> list[dict[str, Any]]:
    """Return the sets of arguments to trace with: none, and all optional arguments with their defaults."""
    parameters = list(signature(module.forward).parameters.values())[1:]
    defaults = {
        parameter.name: parameter.default for parameter in parameters if parameter.default is not Parameter.empty
    }
    return [defaults, {}] if defaults else [{}]


def _pairs(module: nn.Module, tracer: StraightTracer, graph: torch.fx.Graph) -> Iterator[tuple[str, str]]:
    num_calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read_attributes = tuple(str(node.target) for node in graph.nodes if node.op == "get_attr")
    for conv in graph.nodes:
        if conv.op != "call_module" or type(module.get_submodule(str(conv.target))) is not nn.Conv2d:
            continue
        norm = next(iter(conv.users), None)
        if norm is None or norm.op != "call_module" or len(conv.users) > 1 or norm.args != (conv,) or norm.kwargs:
            continue
        names = str(conv.target), str(norm.target)
        is_norm = isinstance(module.get_submodule(names[1]), nn.BatchNorm2d)
        is_called_once = num_calls[names[0]] == num_calls[names[1]] == 1
        prefixes = tuple(f"{name}." for name in names)
        reads_weights = any(attribute.startswith(prefixes) for attribute in read_attributes)
        if is_norm and is_called_once and not tracer.is_kept(conv) and not reads_weights:
            yield names

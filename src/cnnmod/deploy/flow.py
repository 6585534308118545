"""Which convolution feeds which batch norm, and nothing else: the two may be folded into one."""

import copy
from collections import Counter
from collections.abc import Iterator
from inspect import Parameter, signature
from typing import Any

import torch.fx
from torch import Tensor, nn

from cnnmod.deploy.straight import StraightTracer
from cnnmod.method.passes import Run
from cnnmod.method.trace import trace


def foldable_norms(model: nn.Module, example: Tensor | None = None) -> dict[str, str]:
    """Convolution → batch norm, by name, where the network computes the one for the other only.

    That is read off the graph of a forward without branches, since it must hold for every size, batch and memory
    format. What stands in the forward of a module with branches, or with hooks, is left; modules inside of it have
    graphs of their own.

    Raises:
        ValueError: The network does not run on the example.
    """
    calls = trace(model, _count_calls, example)
    # Forwards leave things in attributes, so it is a copy that is traced; it shares the weights.
    shared = {id(tensor): tensor for tensors in (model.parameters(), model.buffers()) for tensor in tensors}
    model = copy.deepcopy(model, shared)
    found: dict[str, str] = {}
    left = [""]
    while left:
        name = left.pop()
        module = model.get_submodule(name)
        if not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):
            continue
        pairs, inside = _read(module)
        prefix = f"{name}." if name else ""
        left += [prefix + one for one in inside]
        for conv, norm in pairs.items():
            if calls[prefix + conv] == calls[prefix + norm] == calls[name] > 0:  # by this forward alone
                found[prefix + conv] = prefix + norm
    return found


def _count_calls(run: Run) -> Counter[str]:
    calls: Counter[str] = Counter()

    def note(name: str, *_: Any) -> None:
        calls[name] += 1

    run(note)
    return calls


def _read(module: nn.Module) -> tuple[dict[str, str], list[str]]:
    """The pairs in a module's graphs, and the names of the modules inside that must be read for themselves."""
    pairs: list[set[tuple[str, str]]] = []
    inside: list[str] = []
    for arguments in _ways_to_call(module):
        tracer = StraightTracer((nn.Conv2d, nn.BatchNorm2d))
        if (graph := tracer.trace_straight(module, arguments)) is None:
            return {}, [name for name, _ in module.named_children()]
        pairs.append(set(_pairs(module, tracer, graph)))
        inside += tracer.opaque
    return dict(set.intersection(*pairs)), inside


def _ways_to_call(module: nn.Module) -> list[dict[str, Any]]:
    """With its input alone; and, if there are further arguments with defaults, with all of them."""
    parameters = list(signature(module.forward).parameters.values())[1:]
    defaults = {one.name: one.default for one in parameters if one.default is not Parameter.empty}
    return [defaults, {}] if defaults else [{}]


def _pairs(module: nn.Module, tracer: StraightTracer, graph: torch.fx.Graph) -> Iterator[tuple[str, str]]:
    times = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read = tuple(str(node.target) for node in graph.nodes if node.op == "get_attr")
    for conv in graph.nodes:
        if conv.op != "call_module" or type(module.get_submodule(str(conv.target))) is not nn.Conv2d:
            continue
        norm = next(iter(conv.users), None)
        if norm is None or norm.op != "call_module" or len(conv.users) > 1 or norm.args != (conv,) or norm.kwargs:
            continue
        names = str(conv.target), str(norm.target)
        is_norm = isinstance(module.get_submodule(names[1]), nn.BatchNorm2d)
        is_alone = times[names[0]] == times[names[1]] == 1 and not tracer.is_kept(conv)
        if is_norm and is_alone and not any(name.startswith(tuple(f"{name}." for name in names)) for name in read):
            yield names

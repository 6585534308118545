"""Where the modules and blocks of a network are: found by shape, not by a table of class names.

A module is a run of sibling blocks of one class whose first block may change the shape (stride, width) and whose
other blocks keep it. Only a network that is not built of such larger blocks is searched for smaller ones: layers with
one convolution, plain `Sequential`s and, for VGG, convolutions with the norm and activation behind them.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.bare import check_bare
from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block, Call, Calls, Refused, children_of, trace_calls
from cnnmod.method.convolutions import ConvNormAct, runs_of_convolutions
from cnnmod.method.trace import check_2d

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_modules(model: nn.Module, example: Tensor | None = None) -> list[list[str]]:
    """The network's modules, each as the qualified names of its blocks, in the network's order (paper, section 3.2).

    Runs the network once, on the meta device, or on its own device if it does not run without values. The network stays
    as it is. It may be converted already. `cnnmod.plan` says more: it also tries the blocks, and names the parts of
    those that cannot be MoD blocks themselves.

    Args:
        model: Any 2D convolutional network whose forward takes one tensor.
        example: An input (N, C, H, W); `None` takes timm's input size or 224 pixels square.

    Raises:
        ValueError: The network is not 2D, does not run on the example, or has no two blocks in a row; then with the
            block types that it has, and why each is none.

    Examples:
        >>> import timm
        >>> find_modules(timm.create_model("resnet18"))[0]
        ['layer1.0', 'layer1.1']
    """
    check_bare(model)
    check_2d(model, example)
    return [[block.name for block in module] for module in discover(model, trace_calls(model, example))]


def discover(model: nn.Module, calls: Calls) -> list[list[Block]]:
    """What `find_modules` names, with layers and calls."""
    modules = _Search(calls, _is_large).modules(model)
    if not modules and not _repeats_large_blocks(model):
        modules = _Search(calls, _is_small).modules(model) or runs_of_convolutions(model, calls)
    if not modules:
        types = "; ".join(f"{kind}: {why}" for kind, why in _block_types(model, calls).items()) or "none"
        raise ValueError(
            f"{type(model).__name__} has nothing to convert: no two sibling blocks of one class in a row of which the "
            f"second keeps its input's shape. Block types seen: {types}"
        )
    return modules


def parts_of(module: list[Block], calls: Calls) -> list[list[Block]]:
    """The runs that parts of the module's blocks make: the same part of each, from block to block."""
    runs: list[list[Block]] = []
    for part_name, first in _parts(module[0].layer, ""):
        run: list[Block] = []
        for block in module:
            name = f"{block.name}.{part_name}"
            layer, call = dict(_parts(block.layer, "")).get(part_name), calls.get(name)
            if not (isinstance(layer, type(first)) and isinstance(call, Call) and _is_large(layer)):
                break
            part = Block(name, layer, call)
            if run and not part.continues(run[-1]):
                break
            run.append(part)
        runs.append(run)
    return runs


def _parts(layer: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The layer's children; a plain container's own stand for it."""
    for name, child in children_of(layer, prefix):
        if type(child) in _CONTAINERS:
            yield from _parts(child, name)
        else:
            yield name, child


def _host(layer: nn.Module) -> nn.Module:
    """What the layer is a block of: a MoD block counts as its Conv-Block."""
    return layer.conv_block if isinstance(layer, MoDBlock) else layer


def _kind(layer: nn.Module) -> type[nn.Module]:
    return type(_host(layer))


def _is_large(layer: nn.Module) -> bool:
    """A convolution and at least one more layer with weights, in a class of their own."""
    layers = [isinstance(inner, _ConvNd) for inner in _host(layer).modules() if isinstance(inner, (_ConvNd, nn.Linear))]
    return len(layers) > 1 and any(layers) and _kind(layer) not in _CONTAINERS  # a subclass of Sequential may be one


def _is_small(layer: nn.Module) -> bool:
    """Anything else around a convolution: one with its norm and activation, or a plain `Sequential` of layers."""
    host = _host(layer)
    has_conv = any(isinstance(inner, _ConvNd) for inner in host.modules())
    return has_conv and not isinstance(host, (_ConvNd, nn.ModuleList, nn.ModuleDict, ConvNormAct))


def _repeats_large_blocks(model: nn.Module) -> bool:
    return max(Counter(_kind(layer) for layer in model.modules() if _is_large(layer)).values(), default=0) > 1


@dataclass(frozen=True)
class _Search:
    """The modules of blocks that `is_block` accepts."""

    calls: Calls
    is_block: Callable[[nn.Module], bool]

    def modules(self, model: nn.Module) -> list[list[Block]]:
        """All runs of the classes that have a run of two somewhere, and not only inside blocks of another."""
        longer = [run for run in self._runs_everywhere(model, "") if len(run) > 1]
        classes = {_kind(run[0].layer) for run in longer}
        outer = {_kind(run[0].layer) for run in longer if not self._is_inside(model, run[0], classes)}
        return list(self._runs(outer, model, ""))

    def _runs_everywhere(self, parent: nn.Module, prefix: str) -> Iterator[list[Block]]:
        for name, layer in parent.named_modules(prefix=prefix):
            yield from self._siblings(layer, name)

    def _is_inside(self, model: nn.Module, block: Block, classes: set[type[nn.Module]]) -> bool:
        """Whether it is a part of a block of another of these classes."""
        parts = block.name.split(".")
        for end in range(1, len(parts)):
            name = ".".join(parts[:end])
            around = model.get_submodule(name)
            is_block = self.is_block(around) and not self._only_holds_blocks(around, name)
            if is_block and _kind(around) in classes - {_kind(block.layer)}:
                return True
        return False

    def _siblings(self, parent: nn.Module, prefix: str) -> list[list[Block]]:
        """The runs among the parent's children, in the order of their first blocks."""
        runs: list[list[Block]] = []
        latest: dict[type[nn.Module], list[Block]] = {}
        for name, child in children_of(parent, prefix):
            call = self.calls.get(name)
            if not (isinstance(call, Call) and self.is_block(child)) or self._only_holds_blocks(child, name):
                continue
            block = Block(name, child, call)
            run = latest.get(_kind(child))
            if run is None or not block.continues(run[-1]):
                run = latest[_kind(child)] = []
                runs.append(run)
            run.append(block)
        return runs

    def _only_holds_blocks(self, layer: nn.Module, name: str) -> bool:
        """A plain `Sequential` is a block only if it does not hold a module."""
        if type(layer) is not nn.Sequential:
            return False
        return any(len(run) > 1 for run in self._runs_everywhere(layer, name))

    def _runs(self, classes: set[type[nn.Module]], parent: nn.Module, prefix: str) -> Iterator[list[Block]]:
        """All runs of these classes; a block alone in its module is one, unless it holds a module of its own class."""
        runs = [run for run in self._siblings(parent, prefix) if _kind(run[0].layer) in classes]
        starts = {run[0].name: run for run in runs}
        blocks = {block.name for run in runs for block in run}
        for name, child in children_of(parent, prefix):
            if len(starts.get(name, ())) > 1:
                yield starts[name]
            elif name in starts:
                yield from list(self._runs({_kind(child)}, child, name)) or [starts[name]]
            elif name not in blocks:
                yield from self._runs(classes, child, name)


def _block_types(model: nn.Module, calls: Calls) -> dict[str, str]:
    """The classes around convolutions, each with why its instances make no module."""
    reasons: dict[str, dict[str, None]] = {}
    for name, layer in model.named_modules():
        if name and _is_small(layer) and _kind(layer) not in _CONTAINERS:
            reasons.setdefault(_kind(layer).__name__, {})[_why_none(calls[name])] = None
    return {kind: " or ".join(whys) for kind, whys in sorted(reasons.items())}


def _why_none(call: Call | Refused) -> str:
    if isinstance(call, Refused):
        return call.reason
    if call.in_shape != call.out_shape:
        return "it changes its input's shape"
    return "it stands in no row of its class, or in a larger block"

"""find_modules: find the modules and blocks of a network by their shapes, without a table of class names.

A module is a sequence of consecutive sibling blocks of one class. Its first block may change the shape (stride, width).
The other blocks preserve the shape. If a network has no such blocks, smaller blocks are used: layers with one
convolution, plain `Sequential`s and, for VGG, convolutions with their norm and activation.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block, Call, Calls, Refused, children_of, trace_calls
from cnnmod.method.convolutions import ConvNormAct, runs_of_convolutions
from cnnmod.method.trace import check_2d
from cnnmod.method.unwrapped import check_unwrapped

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_modules(model: nn.Module, example: Tensor | None = None) -> list[list[str]]:
    """Return the network's modules, each as a list of its blocks' qualified names (paper, section 3.2).

    The network is run once on the meta device, or on its own device if its forward needs values. It is not changed, and
    may already have MoD blocks. `cnnmod.plan` also tries to convert the blocks, and lists convertible parts of blocks
    that cannot be MoD blocks.

    Args:
        model: Any 2D convolutional network whose forward takes one tensor.
        example: An input (N, C, H, W). `None` uses timm's input size, or else 224 × 224 pixels.

    Raises:
        ValueError: If the network is not 2D, does not run on the example, or has no two consecutive blocks. In the last
            case, the message lists the types of blocks, and why each of them is not a block of a module.

    Examples:
        >>> import timm
        >>> find_modules(timm.create_model("resnet18"))[0]
        ['layer1.0', 'layer1.1']
    """
    check_unwrapped(model)
    check_2d(model, example)
    return [[block.name for block in module] for module in discover(model, trace_calls(model, example))]


def discover(model: nn.Module, calls: Calls) -> list[list[Block]]:
    """Return the network's modules, each as a list of `Block`s.

    Raises:
        ValueError: If the network has no two consecutive blocks.
    """
    modules = _Search(calls, _is_large).modules(model)
    if not modules and not _repeats_large_blocks(model):
        modules = _Search(calls, _is_small).modules(model) or runs_of_convolutions(model, calls)
    if not modules:
        types = "; ".join(f"{name}: {reason}" for name, reason in _block_types(model, calls).items()) or "none"
        raise ValueError(
            f"{type(model).__name__} has nothing to convert: found no two consecutive blocks of the same class where "
            f"the second preserves its input shape. Block types seen: {types}"
        )
    return modules


def parts_of(module: list[Block], calls: Calls) -> list[list[Block]]:
    """Return runs of corresponding parts. Each run has the same part of consecutive blocks of the module."""
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
    """Yield the layer's children. A plain container is replaced by its children."""
    for name, child in children_of(layer, prefix):
        if type(child) in _CONTAINERS:
            yield from _parts(child, name)
        else:
            yield name, child


def _host(layer: nn.Module) -> nn.Module:
    """Return the Conv-Block of a MoD block, or the layer itself."""
    return layer.conv_block if isinstance(layer, MoDBlock) else layer


def _class_of(layer: nn.Module) -> type[nn.Module]:
    return type(_host(layer))


def _is_large(layer: nn.Module) -> bool:
    """Whether the layer has a convolution and another convolution or linear layer, and is not a plain container."""
    layers = [isinstance(inner, _ConvNd) for inner in _host(layer).modules() if isinstance(inner, (_ConvNd, nn.Linear))]
    # A subclass of Sequential may be a block.
    return len(layers) > 1 and any(layers) and _class_of(layer) not in _CONTAINERS


def _is_small(layer: nn.Module) -> bool:
    """Whether the layer contains a convolution: one convolution with norm and activation, or a plain `Sequential`."""
    host = _host(layer)
    has_conv = any(isinstance(inner, _ConvNd) for inner in host.modules())
    return has_conv and not isinstance(host, (_ConvNd, nn.ModuleList, nn.ModuleDict, ConvNormAct))


def _repeats_large_blocks(model: nn.Module) -> bool:
    return max(Counter(_class_of(layer) for layer in model.modules() if _is_large(layer)).values(), default=0) > 1


@dataclass(frozen=True)
class _Search:
    """A search for modules of blocks that `is_block` accepts."""

    calls: Calls
    is_block: Callable[[nn.Module], bool]

    def modules(self, model: nn.Module) -> list[list[Block]]:
        """Return all runs of each block class.

        A block class is a class with a run of at least two blocks that is not inside a block of another such class.
        """
        longer = [run for run in self._runs_everywhere(model, "") if len(run) > 1]
        classes = {_class_of(run[0].layer) for run in longer}
        outer = {_class_of(run[0].layer) for run in longer if not self._is_inside(model, run[0], classes)}
        return list(self._runs(outer, model, ""))

    def _runs_everywhere(self, parent: nn.Module, prefix: str) -> Iterator[list[Block]]:
        for name, layer in parent.named_modules(prefix=prefix):
            yield from self._siblings(layer, name)

    def _is_inside(self, model: nn.Module, block: Block, classes: set[type[nn.Module]]) -> bool:
        """Whether the block is inside a block of another of these classes."""
        parts = block.name.split(".")
        for end in range(1, len(parts)):
            name = ".".join(parts[:end])
            parent = model.get_submodule(name)
            is_block = self.is_block(parent) and not self._only_holds_blocks(parent, name)
            if is_block and _class_of(parent) in classes - {_class_of(block.layer)}:
                return True
        return False

    def _siblings(self, parent: nn.Module, prefix: str) -> list[list[Block]]:
        """Return the runs of blocks among the parent's children, in the order of their first blocks."""
        runs: list[list[Block]] = []
        latest: dict[type[nn.Module], list[Block]] = {}
        for name, child in children_of(parent, prefix):
            call = self.calls.get(name)
            if not (isinstance(call, Call) and self.is_block(child)) or self._only_holds_blocks(child, name):
                continue
            block = Block(name, child, call)
            run = latest.get(_class_of(child))
            if run is None or not block.continues(run[-1]):
                run = latest[_class_of(child)] = []
                runs.append(run)
            run.append(block)
        return runs

    def _only_holds_blocks(self, layer: nn.Module, name: str) -> bool:
        """Whether the layer is a plain `Sequential` that contains a module, and is therefore not a block."""
        if type(layer) is not nn.Sequential:
            return False
        return any(len(run) > 1 for run in self._runs_everywhere(layer, name))

    def _runs(self, classes: set[type[nn.Module]], parent: nn.Module, prefix: str) -> Iterator[list[Block]]:
        """Yield all runs of these classes.

        A single block is also a run. If it contains runs of its own class, these are yielded instead.
        """
        runs = [run for run in self._siblings(parent, prefix) if _class_of(run[0].layer) in classes]
        starts = {run[0].name: run for run in runs}
        blocks = {block.name for run in runs for block in run}
        for name, child in children_of(parent, prefix):
            if len(starts.get(name, ())) > 1:
                yield starts[name]
            elif name in starts:
                yield from list(self._runs({_class_of(child)}, child, name)) or [starts[name]]
            elif name not in blocks:
                yield from self._runs(classes, child, name)


def _block_types(model: nn.Module, calls: Calls) -> dict[str, str]:
    """Return the classes of layers with convolutions, each with the reasons why its layers are not in a module."""
    reasons: dict[str, dict[str, None]] = {}
    for name, layer in model.named_modules():
        if name and _is_small(layer) and _class_of(layer) not in _CONTAINERS:
            reasons.setdefault(_class_of(layer).__name__, {})[_why_no_module(calls[name])] = None
    return {class_name: " or ".join(texts) for class_name, texts in sorted(reasons.items())}


def _why_no_module(call: Call | Refused) -> str:
    if isinstance(call, Refused):
        return call.reason
    if call.in_shape != call.out_shape:
        return "it changes its input's shape"
    return "no block of the same class is next to it, or it is inside a larger block"

"""Where the modules and blocks of a network are: found by shape, not by a table of class names.

A module is a run of sibling blocks of one class whose first block may change the shape (stride, width) and whose
other blocks keep it. VGG has no blocks; there the convolution with its norm and ReLU stands for one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.trace import meta_forward

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish)
_UNIT_STARTS = (nn.Conv2d, MoDBlock)
_UNIT_PARTS = (_BatchNorm, *_ACTIVATIONS, nn.Identity)  # identities follow a MoD block that was three layers


@dataclass(frozen=True)
class Block:
    """A block where it stands in its network.

    Attributes:
        name: Its qualified name; of a conv-norm-ReLU, its convolution's.
        layer: The block itself.
        in_shape, out_shape: (N, C, H, W) of its input and output.
        rest: The names of the layers that belong to it but stand beside it: the norm and ReLU after a convolution.
    """

    name: str
    layer: nn.Module
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    rest: tuple[str, ...] = ()

    def continues(self, last: "Block") -> bool:
        """Whether it stands in one module with the block before it: it keeps the shape that it was given."""
        return self.in_shape == self.out_shape == last.out_shape


def find_modules(model: nn.Module, example: Tensor | None = None) -> list[list[str]]:
    """The network's modules, each as the qualified names of its blocks, in the network's order (paper, section 3.2).

    Runs the network once on the meta device; the network stays as it is. It may be converted already.

    Args:
        model: Any convolutional network.
        example: An input (N, C, H, W); `None` takes timm's input size or 224 pixels square.

    Raises:
        ValueError: The network does not run on the example, or has no two blocks in a row; then with the block
            types that it has.

    Example:
        >>> import timm
        >>> find_modules(timm.create_model("resnet18"))[0]
        ['layer1.0', 'layer1.1']
    """
    return [[block.name for block in module] for module in discover(model, example)]


def discover(model: nn.Module, example: Tensor | None = None) -> list[list[Block]]:
    """What `find_modules` names, with layers and shapes."""
    shapes = _call_shapes(model, example)
    classes = _block_classes(model, "", shapes)
    modules = list(_runs_of(classes, model, "", shapes)) if classes else _runs_of_convolutions(model, shapes)
    if not modules:
        seen = {
            type(layer).__name__ for name, layer in model.named_modules() if name and _is_block(layer, name, shapes)
        }
        raise ValueError(
            f"{type(model).__name__} has nothing to convert: no two sibling blocks of one class in a row of which the "
            f"second keeps its input's shape. Block types seen: {', '.join(sorted(seen)) or 'none'}"
        )
    return modules


Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def _call_shapes(model: nn.Module, example: Tensor | None) -> Shapes:
    """(N, C, H, W) of the input and output of every layer that is called once and maps one feature map to one."""
    shapes: Shapes = {}
    calls: Counter[str] = Counter()

    def note(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[name] += 1
        if inputs and all(isinstance(tensor, Tensor) and tensor.ndim == 4 for tensor in (inputs[0], output)):
            shapes[name] = (tuple(inputs[0].shape), tuple(output.shape))

    meta_forward(model, example, note)
    return {name: shape for name, shape in shapes.items() if calls[name] == 1}


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _host(layer: nn.Module) -> nn.Module:
    """What the layer is a block of: a MoD block counts as its Conv-Block."""
    return layer.conv_block if isinstance(layer, MoDBlock) else layer


def _is_block(layer: nn.Module, name: str, shapes: Shapes) -> bool:
    return (
        name in shapes
        and type(_host(layer)) not in _CONTAINERS  # a subclass of Sequential may be a block
        and not isinstance(_host(layer), _ConvNd)
        and any(isinstance(inner, _ConvNd) for inner in layer.modules())
    )


def _sibling_runs(parent: nn.Module, prefix: str, shapes: Shapes) -> list[list[Block]]:
    """The runs among the parent's children, in the order of their first blocks."""
    runs: list[list[Block]] = []
    latest: dict[type[nn.Module], list[Block]] = {}
    for child_name, child in parent.named_children():
        name = _join(prefix, child_name)
        if not _is_block(child, name, shapes):
            continue
        block = Block(name, child, *shapes[name])
        kind = type(_host(child))
        run = latest.get(kind)
        if run is None or not block.continues(run[-1]):
            run = latest[kind] = []
            runs.append(run)
        run.append(block)
    return runs


def _block_classes(parent: nn.Module, prefix: str, shapes: Shapes) -> set[type[nn.Module]]:
    """The classes with a run of two somewhere; what lies inside such a class's blocks does not count."""
    classes = {type(_host(run[0].layer)) for run in _sibling_runs(parent, prefix, shapes) if len(run) > 1}
    for name, child in parent.named_children():
        if type(_host(child)) not in classes:
            classes |= _block_classes(child, _join(prefix, name), shapes)
    return classes


def _runs_of(classes: set[type[nn.Module]], parent: nn.Module, prefix: str, shapes: Shapes) -> Iterator[list[Block]]:
    """All runs of these classes, a block alone in its module among them."""
    runs = _sibling_runs(parent, prefix, shapes)
    starts = {run[0].name: run for run in runs if type(_host(run[0].layer)) in classes}
    for child_name, child in parent.named_children():
        name = _join(prefix, child_name)
        if name in starts:
            yield starts[name]
        elif type(_host(child)) not in classes:
            yield from _runs_of(classes, child, name, shapes)


def _runs_of_convolutions(model: nn.Module, shapes: Shapes) -> list[list[Block]]:
    """VGG's modules: in a `Sequential`, convolutions with their norm and activation, from one pooling to the next."""
    runs: list[list[Block]] = []
    inside = tuple(f"{name}." for name, layer in model.named_modules() if isinstance(layer, MoDBlock))
    for parent_name, parent in model.named_modules():
        if isinstance(parent, nn.Sequential) and not parent_name.startswith(inside):
            named = [(_join(parent_name, name), layer) for name, layer in parent.named_children()]
            runs += _convolution_runs(named, shapes)
    return runs if any(len(run) > 1 for run in runs) else []


def _convolution_runs(named: list[tuple[str, nn.Module]], shapes: Shapes) -> Iterator[list[Block]]:
    run: list[Block] = []
    for unit in _units(named):
        names = [name for name, _ in unit]
        first = unit[0][1]
        if not isinstance(first, _UNIT_STARTS) or not all(name in shapes for name in names):
            block = None
        else:
            layer = first if isinstance(first, MoDBlock) else nn.Sequential(*(layer for _, layer in unit))
            layer.training = first.training
            block = Block(names[0], layer, shapes[names[0]][0], shapes[names[-1]][1], tuple(names[1:]))
        if run and (block is None or not block.continues(run[-1])):
            yield run
            run = []
        if block is not None:
            run.append(block)
    if run:
        yield run


def _units(named: list[tuple[str, nn.Module]]) -> list[list[tuple[str, nn.Module]]]:
    """Each layer alone, but a convolution together with the norm and activation that follow it."""
    units: list[list[tuple[str, nn.Module]]] = []
    for name, layer in named:
        if units and isinstance(units[-1][0][1], _UNIT_STARTS) and isinstance(layer, _UNIT_PARTS):
            units[-1].append((name, layer))
        else:
            units.append([(name, layer)])
    return units

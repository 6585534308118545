"""trace_calls: find how a network calls each of its layers, or why a layer cannot be a block."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.blocks import Layout
from cnnmod.method.passes import Pass
from cnnmod.method.trace import trace


@dataclass(frozen=True)
class Call:
    """The call of a layer that maps a feature map to a feature map and is called once.

    Attributes:
        in_shape, out_shape: (N, C, H, W), or (N, H, W, C).
        args, kwargs: The other arguments. Their tensors are on the meta device, unless the pass had values.
        layout: The order of the axes in `in_shape` and `out_shape`. It is inferred from the first layer with weights.
        dtype: The input's dtype.
        reads, writes: The IDs of the memory of the input and of the output.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    layout: Layout
    dtype: torch.dtype
    reads: int
    writes: int

    @property
    def in_channels(self) -> int:
        """The number of channels of the input."""
        return self.in_shape[self.layout.index("C")]

    @property
    def out_channels(self) -> int:
        """The number of channels of the output."""
        return self.out_shape[self.layout.index("C")]


@dataclass(frozen=True)
class Refused:
    """The reason why a layer cannot be a block, or a block cannot be a MoD block."""

    reason: str


Calls = Mapping[str, Call | Refused]


@dataclass(frozen=True)
class Block:
    """A block of a network.

    Attributes:
        name: The qualified name. For VGG's blocks (convolution, norm, activation), the name of the convolution.
        layer: The module.
        call: The call of the block.
        rest: The names of the block's other layers. For VGG's blocks, these are the norm and the activation.
    """

    name: str
    layer: nn.Module
    call: Call
    rest: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The name of the block's last layer."""
        return self.rest[-1] if self.rest else self.name

    def continues(self, previous: "Block") -> bool:
        """Whether the block is in the same module as the previous block.

        The block must preserve the shape of the previous block's output. Both blocks must not be parallel, that is,
        read the same feature map.
        """
        is_parallel = self.call.reads == previous.call.reads != previous.call.writes
        return self.call.in_shape == self.call.out_shape == previous.call.out_shape and not is_parallel


def trace_calls(model: nn.Module, example: Tensor | None = None) -> dict[str, Call | Refused]:
    """Return the call of each layer by qualified name, or the reason why the layer cannot be a block.

    Raises:
        ValueError: If the network does not run on the example.
    """
    return trace(model, partial(_observe, model), example)


def _observe(model: nn.Module, run: Pass) -> dict[str, Call | Refused]:
    calls: dict[str, Call | Refused] = {}
    num_calls: dict[str, int] = {}
    layouts: dict[str, Layout] = {}
    storages: list[StorageWeakRef] = []  # kept alive, so that addresses are unique

    def record(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        num_calls[name] = num_calls.get(name, 0) + 1
        storages.extend(map(_memory, filter(_is_map, (*args[:1], output))))
        calls[name] = _call(args, kwargs, output, layouts.get(name, "NCHW"))
        if args and _is_map(args[0]) and (width := width_of(layer)) is not None:
            first, last = args[0].shape[1] == width, args[0].shape[3] == width
            reads_last = type(layer).__name__ in ("Linear", "LayerNorm")  # used if both axes have the layer's width
            layout: Layout = "NHWC" if last and (reads_last or not first) else "NCHW"
            for end in range(len(name)):
                if name[end] == ".":
                    layouts.setdefault(name[:end], layout)

    run(record)
    names: dict[nn.Module, list[str]] = {}
    for name, layer in model.named_modules(remove_duplicate=False):
        names.setdefault(layer, []).append(name)
    for name, number in num_calls.items():
        if number > 1:
            registered = names[model.get_submodule(name)]
            aliases = f", as {' and '.join(registered)}" if len(registered) > 1 else ""
            calls[name] = Refused(f"the network calls it {number} times{aliases}")
    not_called = Refused("the network does not call it")
    return {name: calls.get(name, not_called) for name, _ in model.named_modules()}


def width_of(layer: nn.Module) -> int | None:
    """Return the number of channels that a layer takes, or `None` for a layer without a known width."""
    if isinstance(layer, _ConvNd):
        return layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[0]
    return layer.num_features if isinstance(layer, _NormBase) else None


def _call(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, layout: Layout) -> Call | Refused:
    if not args:
        return Refused("its input is a keyword argument")
    if not _is_map(args[0]):
        return Refused(f"its input is {_describe(args[0])}, not a feature map (N, C, H, W)")
    if not _is_map(output):
        return Refused(f"its output is {_describe(output)}, not a feature map (N, C, H, W)")
    if any(isinstance(value, (list, tuple, dict)) for value in (*args[1:], *kwargs.values())):
        return Refused("one of its other arguments is a list, tuple or dictionary")
    reads, writes = _memory(args[0]).cdata, _memory(output).cdata
    return Call(tuple(args[0].shape), tuple(output.shape), args[1:], kwargs, layout, args[0].dtype, reads, writes)


def _memory(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def _is_map(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def _describe(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def children_of(parent: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parent's children with their qualified names. `prefix` is the parent's name."""
    for name, child in parent.named_children():
        yield f"{prefix}.{name}" if prefix else name, child

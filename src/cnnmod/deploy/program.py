"""Convert a Conv-Block into the program that the operator `mod_block_` runs."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import nn

from cnnmod.deploy.live import is_plain
from cnnmod.deploy.straight import StraightTracer

CONVOLUTION, RELU, SUM, RELU6 = range(4)
STEP_NUMBERS = 7
_RELUS = (nn.functional.relu, torch.relu, "relu", "relu_")
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_IN_PLACE = (operator.iadd, "relu_", "add_")


@dataclass(frozen=True)
class Program:
    """The steps that compute a Conv-Block.

    Attributes:
        steps: Seven numbers for each step. `fused.cpp` describes them.
        layers: The names of the convolutions. Steps refer to them by their index.
        registers: The number of registers.
    """

    steps: list[int]
    layers: list[str]
    registers: int


class NoProgramError(Exception):
    """The Conv-Block has layers that are not supported."""


def read_program(conv_block: nn.Module, k: int) -> Program:
    """Return the program of a Conv-Block with k channels.

    Raises:
        NoProgramError: If the Conv-Block cannot be converted.
    """
    if not all(is_plain(layer) for layer in conv_block.modules()):
        raise NoProgramError
    graph = StraightTracer(whole=True).trace_straight(conv_block)
    if graph is None:
        raise NoProgramError
    registers: dict[Any, int] = {}
    channels = [k]  # of each register
    overwritten: set[int] = set()  # registers that an in-place operator changed and that must not be read again
    steps: list[int] = []
    layers: list[str] = []

    def read(node: Any, in_place: bool = False) -> int:
        if node not in registers or registers[node] in overwritten:
            raise NoProgramError
        if in_place:
            overwritten.add(registers[node])
        return registers[node]

    def step(node: torch.fx.Node, num_channels: int, operation: int, *numbers: int) -> None:
        registers[node] = len(channels)
        channels.append(num_channels)
        steps.extend([operation, registers[node], *numbers, *[0] * (5 - len(numbers))])

    for node in graph.nodes:
        layer = conv_block.get_submodule(str(node.target)) if node.op == "call_module" else None
        is_operator = node.op in ("call_function", "call_method")
        in_place = getattr(layer, "inplace", False) or node.kwargs.get("inplace", False) or node.target in _IN_PLACE
        if node.op == "placeholder" and not registers:
            registers[node] = 0
        elif type(layer) is nn.Conv2d:
            padding, dilation = _square(layer)
            source = read(node.args[0])
            if layer.in_channels != channels[source]:
                raise NoProgramError
            step(node, layer.out_channels, CONVOLUTION, source, len(layers), padding, dilation, layer.groups)
            layers.append(str(node.target))
        elif type(layer) is nn.ReLU or (is_operator and node.target in _RELUS and len(node.args) == 1):
            source = read(node.args[0], in_place)
            step(node, channels[source], RELU, source)
        elif type(layer) is nn.ReLU6:
            source = read(node.args[0], in_place)
            step(node, channels[source], RELU6, source)
        elif type(layer) is nn.Identity or (type(layer) is nn.Dropout and layer.p == 0):
            registers[node] = read(node.args[0])
        elif is_operator and node.target in _SUMS and len(node.args) == 2 and not node.kwargs:
            other, source = read(node.args[1]), read(node.args[0], in_place)
            if channels[source] != channels[other]:
                raise NoProgramError
            step(node, channels[source], SUM, source, other)
        elif node.op != "output" or not steps or read(node.args[0]) != steps[-6] or channels[-1] != k:
            raise NoProgramError
    return Program(steps, layers, len(channels))


def _square(layer: nn.Conv2d) -> tuple[int, int]:
    """Return the padding and dilation of a convolution that keeps height and width."""
    (padding, *others), dilation = layer.padding, layer.dilation
    same = all(2 * padding == dilation[0] * (size - 1) for size in layer.kernel_size)
    plain = layer.stride == (1, 1) and layer.padding_mode == "zeros"
    if not (plain and same and others == [padding] and dilation[0] == dilation[1]):
        raise NoProgramError
    assert isinstance(padding, int)
    return padding, dilation[0]

"""The MoD block as one operator for inference on a CPU, compiled on demand from `fused.cpp`."""

import functools
import hashlib
import logging
import operator
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from cnnmod.deploy.forms import EagerForm
from cnnmod.method.blocks import MoDBlock

logger = logging.getLogger("cnnmod")
_LONGEST_BUILD_S = 300
_CONVOLUTION, _RELU, _SUM, _RELU6 = range(4)
_RELUS = (nn.functional.relu, torch.relu, "relu", "relu_")
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_IN_PLACE = (operator.iadd, "relu_", "add_")


class FusedForm(EagerForm):
    """The MoD block for eager PyTorch, one operator where float32 images come on a CPU, and else several.

    It is for Conv-Blocks of convolutions of stride 1, ReLUs, ReLU6s and sums, as ResNets' and MobileNetV2's are.
    """

    def __init__(self, block: MoDBlock) -> None:
        program, weights, biases, registers = _read(block.conv_block)  # before the convolutions become products
        super().__init__(block)
        self.step_weights, self.step_biases = nn.ParameterList(weights), nn.ParameterList(biases)
        selector = (self.selector.reduce.weight, self.selector.expand.weight, self.gain_K)
        by_index = block.config.order == "index"
        # A tuple is looked up faster than parameters are; moving the network moves what is in it.
        self.arguments = (*selector, [*self.step_weights], [*self.step_biases], program, registers, self.k, by_index)

    def forward(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) → the same tensor, changed."""
        fits = x_NCHW.is_contiguous() or x_NCHW.is_contiguous(memory_format=torch.channels_last)
        if not (fits and x_NCHW.is_cpu and x_NCHW.dtype == torch.float32 and x_NCHW.size(1) == self.channels):
            return super().forward(x_NCHW, *args, **kwargs)
        if x_NCHW.requires_grad or torch.is_autocast_enabled("cpu"):
            return super().forward(x_NCHW, *args, **kwargs)
        torch.ops.cnnmod.mod_block_(x_NCHW, *self.arguments, self.start)
        return x_NCHW


def can_fuse(block: MoDBlock) -> bool:
    """Whether `FusedForm` is for this block, and the operator is there; the first call compiles it."""
    if block.config.select != "learned" or block.config.fuse_to == "original" or block.layout != "NCHW":
        return False
    if not block.selector.reduce.weight.is_cpu:
        return False
    try:
        _read(block.conv_block)
    except _NoProgramError:
        return False
    return is_compiled()


@functools.cache
def is_compiled() -> bool:
    """Compile the operator with the compiler at hand, once a machine; say so if there is none."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it speaks of CUDA where there is none
    from torch.utils.cpp_extension import load

    source = Path(__file__).with_name("fused.cpp")
    try:
        load(
            "cnnmod_fused",
            [str(source)],
            extra_cflags=["-O3", "-march=native", "-fopenmp"],
            build_directory=str(_build_folder(source)),
            is_python_module=False,
        )
    except (OSError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        logger.warning("the fused operator cannot be compiled (%s); MoD blocks run as several operators", reason)
        return False
    torch.library.register_fake("cnnmod::mod_block_", lambda *args: None)
    return True


def _build_folder(source: Path) -> Path:
    """In the user's cache, one for each torch and source; without the lock that a killed build left there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    version = hashlib.sha256(source.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    folder = cache / "cnnmod" / f"fused-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock"
    if lock.exists() and time.time() - lock.stat().st_mtime > _LONGEST_BUILD_S:
        lock.unlink(missing_ok=True)
    return folder


class _NoProgramError(Exception):
    """A Conv-Block of other layers."""


def _read(conv_block: nn.Module) -> tuple[list[int], list[Tensor], list[Tensor], int]:
    """The Conv-Block as `fused.cpp` takes it: steps, weights, biases, number of registers."""
    if any(layer._forward_hooks or layer._forward_pre_hooks for layer in conv_block.modules()):
        raise _NoProgramError
    try:
        traced = torch.fx.symbolic_trace(conv_block)
    except Exception as error:  # whatever a foreign forward raises at a tracer's proxies
        raise _NoProgramError from error
    registers: dict[Any, int] = {}
    overwritten: set[int] = set()  # by an operator in place; what is read later is no longer what was there
    program: list[int] = []
    weights: list[Tensor] = []
    biases: list[Tensor] = []

    def read(node: Any, in_place: bool = False) -> int:
        if node not in registers or registers[node] in overwritten:
            raise _NoProgramError
        if in_place:
            overwritten.add(registers[node])
        return registers[node]

    def step(node: torch.fx.Node, kind: int, *numbers: int) -> None:
        registers[node] = 1 + len(program) // 7
        program.extend([kind, registers[node], *numbers, *[0] * (5 - len(numbers))])

    for node in traced.graph.nodes:
        layer = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        in_place = getattr(layer, "inplace", False) or node.kwargs.get("inplace", False) or node.target in _IN_PLACE
        if node.op == "placeholder" and not registers:
            registers[node] = 0
        elif isinstance(layer, nn.Conv2d):
            padding, dilation = _square(layer)
            step(node, _CONVOLUTION, read(node.args[0]), len(weights), padding, dilation, layer.groups)
            weights.append(layer.weight)
            biases.append(layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias)
        elif isinstance(layer, nn.ReLU) or (layer is None and node.target in _RELUS):
            step(node, _RELU, read(node.args[0], in_place))
        elif isinstance(layer, nn.ReLU6):
            step(node, _RELU6, read(node.args[0], in_place))
        elif isinstance(layer, (nn.Identity, nn.Dropout)):
            registers[node] = read(node.args[0])
        elif node.target in _SUMS and len(node.args) == 2 and not node.kwargs:
            other = read(node.args[1])
            step(node, _SUM, read(node.args[0], in_place), other)
        elif node.op != "output" or not program or read(node.args[0]) != program[-6]:
            raise _NoProgramError
    return program, weights, biases, 1 + len(program) // 7


def _square(layer: nn.Conv2d) -> tuple[int, int]:
    """Padding and dilation of a convolution that leaves height and width as they are."""
    (padding, *others), dilation = layer.padding, layer.dilation
    same = all(2 * padding == dilation[0] * (size - 1) for size in layer.kernel_size)
    plain = layer.stride == (1, 1) and layer.padding_mode == "zeros" and type(layer) is nn.Conv2d
    if not (plain and same and others == [padding] and dilation[0] == dilation[1]):
        raise _NoProgramError
    assert isinstance(padding, int)
    return padding, dilation[0]

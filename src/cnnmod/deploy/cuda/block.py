"""The operator `mod_block_` on a GPU: plan the kernels, fill their arguments, launch them."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnmod.deploy.cuda import kernels
from cnnmod.deploy.cuda.arguments import Arguments, StepArguments
from cnnmod.deploy.cuda.fallback import mod_block_by_operators_
from cnnmod.deploy.cuda.plan import MOST_STEPS, Launch, Layout, Limits, Plan, Step, lay_out, plan_kernels, pool_tile
from cnnmod.deploy.live import is_dense
from cnnmod.deploy.program import CONVOLUTION

Launcher = Callable[[tuple[Launch, ...], Arguments, torch.dtype, torch.device], None]


class Block(NamedTuple):
    """The arguments of `mod_block_` after the images. `operator.py` describes them."""

    reduce: Tensor
    expand: Tensor
    gain: Tensor | None
    weights: list[Tensor]
    biases: list[Tensor]
    program: list[int]
    registers: int
    k: int
    by_index: bool
    start: int

    @property
    def tensors(self) -> list[Tensor]:
        """All weights."""
        return [self.reduce, self.expand, *self.weights, *self.biases, *([] if self.gain is None else [self.gain])]

    def dense(self) -> "Block":
        """Return the block with copies of the weights that the kernels cannot read where they are."""
        return self._replace(
            reduce=self.reduce.contiguous(),
            expand=self.expand.contiguous(),
            gain=None if self.gain is None else self.gain.contiguous(),
            weights=[weight if is_dense(weight) else weight.contiguous() for weight in self.weights],
            biases=[bias.contiguous() for bias in self.biases],
        )

    @property
    def layout(self) -> Layout:
        """The program's layout in shared memory."""
        return lay_out(tuple(self.program), tuple(tuple(weight.shape) for weight in self.weights), self.k)

    def plan(self, x_NCHW: Tensor, limits: Limits) -> Plan | None:
        """Return the kernels for images of this shape, or `None` if torch's operators compute them."""
        images, channels, height, width = x_NCHW.shape
        shape, (pool, hidden) = (images, channels, height, width), self.expand.shape
        return plan_kernels(self.layout, shape, pool, hidden, self.k, x_NCHW.element_size(), limits)


class Call(NamedTuple):
    """What the kernels need, except memory of one call. `block` keeps copies of weights until they are launched."""

    plan: Plan
    filled: Arguments
    block: Block | None


_MOST_CALLS = 1024
_calls: dict[tuple[Any, ...], Call] = {}  # planning takes longer than launching


def mod_block_(
    x_NCHW: Tensor,
    *arguments: Any,
    launch: Launcher = kernels.launch,
    limits: Callable[[torch.device], Limits] = kernels.limits,
) -> None:
    """Compute a MoD block in place.

    Args:
        x_NCHW: The images.
        arguments: The fields of `Block`.
        launch: Launches kernels. Tests run them on the CPU.
        limits: Returns the limits of a device.

    Raises:
        RuntimeError: If the shapes, data types, devices or memory formats do not fit.
    """
    if x_NCHW.numel() == 0:
        _check(x_NCHW, Block(*arguments))
        return
    limits_of_device = limits(x_NCHW.device)
    key = _key(x_NCHW, arguments, limits_of_device)
    call = _calls.get(key)
    if call is None:
        block = Block(*arguments)
        _check(x_NCHW, block)
        plan = block.plan(x_NCHW, limits_of_device)
        if plan is None:
            mod_block_by_operators_(x_NCHW, *arguments)
            return
        dense = block.dense()
        call = Call(plan, _arguments(x_NCHW, dense, plan), dense)
        if all(map(operator.is_, dense.tensors, block.tensors)):
            if len(_calls) >= _MOST_CALLS:
                _calls.clear()
            _calls[key] = call._replace(block=None)
    filled = Arguments.from_buffer_copy(call.filled)  # other threads can use the same call
    filled.x = x_NCHW.data_ptr()
    memory = _allocate(filled, call.plan, x_NCHW.device)
    launch(call.plan.launches, filled, x_NCHW.dtype, x_NCHW.device)
    del memory


def _key(x_NCHW: Tensor, arguments: tuple[Any, ...], limits: Limits) -> tuple[Any, ...]:
    """Return everything that a call depends on: shapes, strides, data types, addresses of weights, and numbers."""
    reduce, expand, gain, weights, biases, program, *numbers = arguments
    key = [limits, x_NCHW.dtype, x_NCHW.device, x_NCHW.shape, x_NCHW.stride(), *program, *numbers]
    key += (len(weights), len(biases), gain is None)
    for value in (reduce, expand, *weights, *biases, *(() if gain is None else (gain,))):
        key += (value.data_ptr(), value.dtype, value.device, value.shape, value.stride())
    return tuple(key)


def _check(x_NCHW: Tensor, block: Block) -> None:
    """Raise an error for tensors that the kernels would read or write out of bounds."""
    channels, (hidden, pool) = x_NCHW.size(1), block.reduce.shape
    if any(value.dtype != x_NCHW.dtype or value.device != x_NCHW.device for value in block.tensors):
        raise RuntimeError(f"mod_block_: a weight is not {x_NCHW.dtype} on {x_NCHW.device}, as the images are")
    if not is_dense(x_NCHW):
        raise RuntimeError("mod_block_ takes images that are contiguous or channels last")
    convolutions = [step for step in block.layout.steps if step.operation == CONVOLUTION]
    if (
        not 0 < block.k <= pool <= channels
        or hidden == 0
        or block.expand.shape != (pool, hidden)
        or (block.gain is not None and block.gain.shape != (block.k,))
        or block.start + block.k > channels
        or any(block.biases[step.layer].numel() not in (0, step.outputs) for step in convolutions)
    ):
        raise RuntimeError(
            f"mod_block_: {block.k} of {pool} candidates of {channels} channels cannot be selected with weights of "
            f"{tuple(block.reduce.shape)} and {tuple(block.expand.shape)}"
        )


def _arguments(x_NCHW: Tensor, block: Block, plan: Plan) -> Arguments:
    images, channels, height, width = x_NCHW.shape
    (pool, hidden), layout = block.expand.shape, block.layout
    filled = Arguments(
        x=x_NCHW.data_ptr(), reduce=block.reduce.data_ptr(), expand=block.expand.data_ptr(),
        gain=None if block.gain is None else block.gain.data_ptr(),
        images=images, channels=channels, height=height, width=width, channels_last=not x_NCHW.is_contiguous(),
        pool=pool, hidden=hidden, k=block.k, by_index=block.by_index, start=block.start,
        strips=plan.strips, pool_tile=pool_tile(pool), tile_rows=plan.tile_rows, halo=layout.halo,
        output=layout.output, num_steps=len(layout.steps), steps=_steps(layout.steps),
    )  # fmt: skip
    for target, step in zip(filled.steps, layout.steps, strict=False):
        if step.operation == CONVOLUTION:
            weight, bias = block.weights[step.layer], block.biases[step.layer]
            target.weight, target.weight_last = weight.data_ptr(), not weight.is_contiguous()
            target.bias = bias.data_ptr() if bias.numel() else None
    return filled


@functools.lru_cache(maxsize=256)
def _steps(steps: tuple[Step, ...]) -> Any:
    """Return the steps without pointers. Assigning them to a field copies them."""
    filled = (StepArguments * MOST_STEPS)()
    for target, step in zip(filled, steps, strict=False):
        for field in StepArguments._fields_:
            if hasattr(step, field[0]):
                setattr(target, field[0], getattr(step, field[0]))
    return filled


def _allocate(filled: Arguments, plan: Plan, device: torch.device) -> list[Tensor]:
    """Allocate the memory between the kernels, and return it."""
    images, k, memory = filled.images, filled.k, list[Tensor]()

    def allocate(*shape: int, dtype: torch.dtype = torch.float32) -> int:
        memory.append(torch.empty(shape, dtype=dtype, device=device))
        return memory[-1].data_ptr()

    if plan.strips:
        filled.sums = allocate(images, plan.strips, filled.pool)
    if len(plan.launches) > 2:
        filled.score = allocate(images, k)
        filled.index = allocate(images, k, dtype=torch.int32)
        filled.result = allocate(images, k, filled.height, filled.width)
    return memory

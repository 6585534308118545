"""Decide which kernels of `mod_block.cu` compute a MoD block, with how many threads and how much shared memory.

The decision depends only on numbers, so it is tested without a GPU.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cnnmod.deploy.program import CONVOLUTION, STEP_NUMBERS, SUM

MOST_STEPS = 32  # of a Conv-Block; the kernels' arguments must not exceed 4 KiB
ALL_PAIRS = 256  # with more candidates, the channels that can be selected are found before they are ranked
_MOST_THREADS, _WARP = 1024, 32
_POOLED_BYTES = 128 * 1024  # of an image that one CTA pools; more bytes are pooled by many CTAs
_POOL_TILE, _POOL_THREADS = 64, 256
_STRIP_PIXELS, _MOST_STRIPS = 256, 16
_FLOAT_BYTES, _VECTOR_BYTES = 4, 16


@dataclass(frozen=True)
class Limits:
    """What a GPU offers: bytes of shared memory for one CTA, and the number of multiprocessors."""

    shared_bytes: int
    multiprocessors: int


@dataclass(frozen=True)
class Step:
    """A step of the Conv-Block's program. Registers are given by their first channel in shared memory.

    `layer` is the index of a convolution's weight. All other fields are those of `Step` in `mod_block.cu`.
    """

    operation: int
    inputs: int
    outputs: int
    target: int
    source: int
    other: int
    layer: int
    size: int
    dilation: int
    padding: int
    groups: int


@dataclass(frozen=True)
class Layout:
    """The program with its registers placed in shared memory.

    Attributes:
        steps: The steps.
        channels: How many channels all registers have together. A register's memory is used again after its last use.
        output: The first channel of the result.
        halo: How many rows above and below a tile its result depends on.
    """

    steps: tuple[Step, ...]
    channels: int
    output: int
    halo: int


@dataclass(frozen=True)
class Launch:
    """One kernel, with its grid, threads of a CTA and bytes of shared memory."""

    kernel: Literal["mod_block", "pool", "select_channels", "tiles", "add_result"]
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int


@dataclass(frozen=True)
class Plan:
    """The kernels of a MoD block for one shape of images, in order."""

    launches: tuple[Launch, ...]
    strips: int
    tile_rows: int

    def __str__(self) -> str:
        """Return the names of the kernels."""
        return " + ".join(launch.kernel for launch in self.launches)


@functools.lru_cache(maxsize=256)
def lay_out(program: tuple[int, ...], shapes: tuple[tuple[int, ...], ...], k: int) -> Layout:
    """Place the registers of a program in shared memory.

    Args:
        program: `Program.steps`.
        shapes: The shapes of the convolutions' weights.
        k: The number of channels of register 0, which is the input.

    Raises:
        ValueError: If a weight does not fit the program.
    """
    raw = [program[at : at + STEP_NUMBERS] for at in range(0, len(program), STEP_NUMBERS)]
    reads = [(step[2], step[3]) if step[0] == SUM else (step[2],) for step in raw]
    last_read = {register: at for at, registers in enumerate(reads) for register in registers}
    last_read[raw[-1][1]] = len(raw)  # the result is read after the program
    widths, places = {0: k}, {0: 0}
    most, halo, steps = k, 0, list[Step]()
    for at, step in enumerate(raw):
        operation, target, source = step[:3]
        outputs, layer, size, padding, dilation, groups = widths[source], 0, 1, 0, 1, 1
        if operation == CONVOLUTION:
            layer, padding, dilation, groups = step[3:]
            outputs, inputs, size, columns = shapes[layer]
            same = 2 * padding == dilation * (size - 1) and size == columns
            if not same or inputs * groups != widths[source] or outputs % groups:
                raise ValueError(f"a weight of shape {shapes[layer]} does not fit {widths[source]} channels")
            halo += padding
        if operation != CONVOLUTION and last_read[source] == at:
            place = places[source]  # overwrites what it reads
        else:
            alive = [register for register in places if last_read.get(register, -1) >= at]
            place = _free_place(outputs, sorted((places[register], widths[register]) for register in alive))
        most = max(most, place + outputs)
        other = places[step[3]] if operation == SUM else 0
        steps.append(
            Step(
                operation, widths[source], outputs, place, places[source], other, layer, size, dilation, padding, groups
            )
        )
        places[target], widths[target] = place, outputs
    if steps[-1].outputs != k:
        raise ValueError(f"the Conv-Block returns {steps[-1].outputs} channels instead of {k}")
    return Layout(tuple(steps), most, steps[-1].target, halo)


def _free_place(wanted: int, taken: Sequence[tuple[int, int]]) -> int:
    """Return the first place with `wanted` free channels. `taken` are sorted places and widths."""
    place = 0
    for start, width in taken:
        if place + wanted <= start:
            return place
        place = max(place, start + width)
    return place


@functools.lru_cache(maxsize=256)
def plan_kernels(
    layout: Layout, shape: tuple[int, int, int, int], pool: int, hidden: int, k: int, element_bytes: int, limits: Limits
) -> Plan | None:
    """Return the kernels for images of a shape (N, C, H, W), or `None` if not even a tile fits into shared memory.

    If an image's planes fit, one kernel computes the block, after a kernel that pools if an image has many values to
    pool and there are fewer images than multiprocessors. Otherwise four kernels compute it in tiles of rows.
    """
    images, _, height, width = shape
    threads = _threads(max(k * height * width, pool), images < limits.multiprocessors)
    pools_alone = pool * height * width * element_bytes > _POOLED_BYTES and images < limits.multiprocessors
    selection = 3 * pool + max(pool, hidden) + hidden + k + 1  # `Scratch` in mod_block.cu, without `partial`
    scratch = selection + (0 if pools_alone else _partial(threads, pool, element_bytes))
    whole = _FLOAT_BYTES * (2 * k + max(scratch, layout.channels * height * width))
    if whole <= limits.shared_bytes:
        block = Launch("mod_block", (images, 1, 1), threads, whole)
        if not pools_alone:
            return Plan((block,), 0, height)
        strips, pool_launch = _pool(images, height * width, pool, element_bytes)
        return Plan((pool_launch, block), strips, height)
    fitting_rows = limits.shared_bytes // (_FLOAT_BYTES * layout.channels * width) - 2 * layout.halo
    if fitting_rows < 1 or _FLOAT_BYTES * selection > limits.shared_bytes:
        return None
    rows = min(fitting_rows, max(2 * layout.halo, 1, height * images // (2 * limits.multiprocessors)))
    tiles = -(-height // rows)
    strips, pool_launch = _pool(images, height * width, pool, element_bytes)
    tile_bytes = _FLOAT_BYTES * layout.channels * width * min(height, rows + 2 * layout.halo)
    tile_threads = _threads(k * rows * width, images * tiles < limits.multiprocessors)
    return Plan(
        (
            pool_launch,
            Launch("select_channels", (images, 1, 1), threads, _FLOAT_BYTES * selection),
            Launch("tiles", (images, tiles, 1), tile_threads, tile_bytes),
            Launch("add_result", (images, tiles, 1), tile_threads, 0),
        ),
        strips,
        rows,
    )


def pool_tile(pool: int) -> int:
    """Return the number of channels that one CTA of the kernel `pool` pools."""
    return min(pool, _POOL_TILE)


def _pool(images: int, pixels: int, pool: int, element_bytes: int) -> tuple[int, Launch]:
    strips = max(1, min(_MOST_STRIPS, pixels // _STRIP_PIXELS))
    tile = pool_tile(pool)
    grid = (images, -(-pool // tile), strips)
    return strips, Launch("pool", grid, _POOL_THREADS, _FLOAT_BYTES * _partial(_POOL_THREADS, tile, element_bytes))


def _partial(threads: int, channels: int, element_bytes: int) -> int:
    """Return how many partial sums of channels the threads of a CTA write."""
    return threads * _VECTOR_BYTES // element_bytes + channels


def _threads(work: int, few: bool) -> int:
    """Return the threads of a CTA. With few CTAs, each takes as many threads as it has work for."""
    most = _MOST_THREADS if few else _MOST_THREADS // 2
    return max(_WARP, min(most, -(-work // _WARP) * _WARP))

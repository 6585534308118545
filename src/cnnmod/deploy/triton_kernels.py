"""The parts of a MoD block before and after its Conv-Block as two operators, made of four Triton kernels.

Importing this file imports triton. The feature maps are contiguous or channels last. A kernel accesses them as
(N, C, pixels), by strides. A program computes a tile of some channels and some pixels of one image. In `_select`, it
computes all channels.
"""
# Kernels are called with numbers and tensors, but their parameters are constants, pointers and vectors.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 1024  # channels × pixels
_MOST_STRIPS, _STRIP_PIXELS = 16, 256  # a map is pooled in strips of at least this many pixels
_WEIGHTS = 8192  # how many weights of each layer `_select` holds at a time


def select_and_gather(
    x_NCHW: Tensor, reduce: Tensor, expand: Tensor, gain_K: Tensor | None, k: int, by_index: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the selected channels (N, K, H, W), their scores (N, K) in float32 and their indices (N, K)."""
    (images, _, height, width), (hidden, candidates) = x_NCHW.shape, reduce.shape
    pixels = height * width
    if (
        expand.shape != (candidates, hidden)
        or not k <= candidates <= x_NCHW.shape[1]
        or (gain_K is not None and len(gain_K) != k)
    ):
        raise RuntimeError(f"select_and_gather: weights of shape {reduce.shape} and {expand.shape} do not match")
    reduce, expand = reduce.contiguous(), expand.contiguous()
    x_NKHW, score_NK, index_NK = _empty(x_NCHW, k)
    strips = min(_MOST_STRIPS, triton.cdiv(pixels, _STRIP_PIXELS))
    sum_NSC = x_NCHW.new_empty((images, strips, candidates), dtype=torch.float32)
    all_channels = triton.next_power_of_2(candidates)
    units = min(triton.next_power_of_2(hidden), max(1, _WEIGHTS // all_channels))
    with torch.cuda.device_of(x_NCHW):
        tile_channels, tile_pixels = _tile(x_NCHW, candidates)
        _sum_strips[images, triton.cdiv(candidates, tile_channels), strips](
            x_NCHW, sum_NSC, candidates, pixels, strips, *_strides(x_NCHW), tile_channels, tile_pixels
        )
        _select[(images,)](
            *(sum_NSC, reduce, expand, gain_K, score_NK, index_NK),
            *(strips, pixels, candidates, hidden, k, by_index, all_channels, units),
            num_warps=8,
        )
        tile_channels, tile_pixels = _tile(x_NKHW, k)
        _gather[images, triton.cdiv(k, tile_channels), triton.cdiv(pixels, tile_pixels)](
            x_NCHW, index_NK, x_NKHW, k, pixels, *_strides(x_NCHW), *_strides(x_NKHW), tile_channels, tile_pixels
        )
    return x_NKHW, score_NK, index_NK


def fuse_(x_NCHW: Tensor, y_NKHW: Tensor, score_NK: Tensor, index_NK: Tensor | None, start: int) -> None:
    """Add y times the scores to the channels start, start + 1, … of x, or to the channels `index_NK`."""
    images, k = score_NK.shape
    pixels = x_NCHW.shape[2] * x_NCHW.shape[3]
    y_NKHW = y_NKHW.expand(images, k, *x_NCHW.shape[2:])  # raises if the kernel would read out of bounds
    if not (y_NKHW.is_contiguous() or y_NKHW.is_contiguous(memory_format=torch.channels_last)):
        y_NKHW = y_NKHW.contiguous()
    tile_channels, tile_pixels = _tile(y_NKHW, k)
    with torch.cuda.device_of(x_NCHW):
        _fuse[images, triton.cdiv(k, tile_channels), triton.cdiv(pixels, tile_pixels)](
            *(x_NCHW, y_NKHW, score_NK, index_NK, start, k, pixels),
            *(*_strides(x_NCHW), *_strides(y_NKHW), tile_channels, tile_pixels),
        )


@triton.jit
def _sum_strips(
    x,
    sum_NSC,
    candidates,
    pixels,
    strips,
    x_image,
    x_channel,
    x_pixel,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Sum the pixels of a strip in float32."""
    image, strip = tl.program_id(0).to(tl.int64), tl.program_id(2)
    channel_C = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    length = tl.cdiv(pixels, strips)
    x += image * x_image
    sum_CP = tl.zeros([CHANNELS, PIXELS], tl.float32)
    for first in range(0, length, PIXELS):
        position_P = first + tl.arange(0, PIXELS)
        pixel_P = strip * length + position_P
        inside_CP = (channel_C < candidates)[:, None] & ((position_P < length) & (pixel_P < pixels))[None, :]
        x_CP = x + channel_C[:, None] * x_channel + pixel_P[None, :] * x_pixel
        sum_CP += tl.load(x_CP, mask=inside_CP, other=0.0).to(tl.float32)
    tl.store(
        sum_NSC + (image * strips + strip) * candidates + channel_C, tl.sum(sum_CP, 1), mask=channel_C < candidates
    )


@triton.jit
def _select(
    sum_NSC,
    reduce,
    expand,
    gain_K,
    score_NK,
    index_NK,
    strips,
    pixels,
    candidates,
    hidden,
    k,
    BY_INDEX: tl.constexpr,
    CHANNELS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Compute the logits of one image, rank them as `select_channels` does, and compute the scores of the first k."""
    image = tl.program_id(0).to(tl.int64)
    channel_C = tl.arange(0, CHANNELS)
    is_channel_C = channel_C < candidates
    pooled_C = tl.zeros([CHANNELS], tl.float32)
    for strip in range(strips):
        pooled_C += tl.load(sum_NSC + (image * strips + strip) * candidates + channel_C, mask=is_channel_C, other=0.0)
    pooled_C /= pixels

    logit_C = tl.zeros([CHANNELS], tl.float32)
    for first in range(0, hidden, UNITS):  # add the contribution of some hidden units to the logits
        unit_U = first + tl.arange(0, UNITS)
        is_unit_U = unit_U < hidden
        reduce_UC = tl.load(
            reduce + unit_U[:, None] * candidates + channel_C[None, :],
            mask=is_unit_U[:, None] & is_channel_C[None, :],
            other=0.0,
        )
        unit_value_U = tl.sum(reduce_UC.to(tl.float32) * pooled_C[None, :], 1)
        unit_value_U = tl.where(is_unit_U & ~(unit_value_U < 0), unit_value_U, 0.0)  # a ReLU that keeps NaN
        expand_CU = tl.load(
            expand + channel_C[:, None] * hidden + unit_U[None, :],
            mask=is_channel_C[:, None] & is_unit_U[None, :],
            other=0.0,
        )
        logit_C += tl.sum(expand_CU.to(tl.float32) * unit_value_U[None, :], 1)

    # Keys are distinct integers in the order of the logits. Their low bits rank lower channels higher.
    bits_C = tl.where(logit_C == 0, 0.0, logit_C).to(tl.int32, bitcast=True)  # give -0.0 and 0.0 the same bits
    ordered_C = bits_C ^ ((bits_C >> 31) & 0x7FFFFFFF)
    key_C = (ordered_C.to(tl.int64) << 32) | (CHANNELS - channel_C)
    key_C = tl.where(is_channel_C, key_C, -(2**63))  # below all keys
    position_C = tl.zeros([CHANNELS], tl.int32) + k
    for rank in range(k):  # k is small, and Triton compiles a sort for minutes
        is_highest_C = key_C == tl.max(key_C, 0)
        position_C = tl.where(is_highest_C, rank, position_C)
        key_C = tl.where(is_highest_C, -(2**63), key_C)
    is_selected_C = position_C < k
    if BY_INDEX:
        position_C = tl.cumsum(is_selected_C.to(tl.int32), 0) - 1

    score_C = tl.sigmoid(logit_C)
    if gain_K is not None:
        score_C *= tl.load(gain_K + position_C, mask=is_selected_C, other=0.0).to(tl.float32)
    tl.store(score_NK + image * k + position_C, score_C, mask=is_selected_C)
    tl.store(index_NK + image * k + position_C, channel_C, mask=is_selected_C)


@triton.jit
def _gather(
    x,
    index_NK,
    y,
    k,
    pixels,
    x_image,
    x_channel,
    x_pixel,
    y_image,
    y_channel,
    y_pixel,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Copy the selected channels."""
    image = tl.program_id(0).to(tl.int64)
    position_K = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    pixel_P = tl.program_id(2) * PIXELS + tl.arange(0, PIXELS)
    inside_KP = (position_K < k)[:, None] & (pixel_P < pixels)[None, :]
    index_K = tl.load(index_NK + image * k + position_K, mask=position_K < k, other=0)
    x_KP = x + image * x_image + index_K[:, None] * x_channel + pixel_P[None, :] * x_pixel
    y_KP = y + image * y_image + position_K[:, None] * y_channel + pixel_P[None, :] * y_pixel
    tl.store(y_KP, tl.load(x_KP, mask=inside_KP), mask=inside_KP)


@triton.jit
def _fuse(
    x,
    y,
    score_NK,
    index_NK,
    start,
    k,
    pixels,
    x_image,
    x_channel,
    x_pixel,
    y_image,
    y_channel,
    y_pixel,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Add score · y to k channels of x."""
    image = tl.program_id(0).to(tl.int64)
    position_K = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    pixel_P = tl.program_id(2) * PIXELS + tl.arange(0, PIXELS)
    inside_KP = (position_K < k)[:, None] & (pixel_P < pixels)[None, :]
    score_K = tl.load(score_NK + image * k + position_K, mask=position_K < k, other=0.0)
    if index_NK is None:
        index_K = start + position_K
    else:
        index_K = tl.load(index_NK + image * k + position_K, mask=position_K < k, other=0)
    x_KP = x + image * x_image + index_K[:, None] * x_channel + pixel_P[None, :] * x_pixel
    y_KP = y + image * y_image + position_K[:, None] * y_channel + pixel_P[None, :] * y_pixel
    scaled_KP = tl.load(y_KP, mask=inside_KP).to(tl.float32) * score_K[:, None]
    tl.store(x_KP, tl.load(x_KP, mask=inside_KP).to(tl.float32) + scaled_KP, mask=inside_KP)


def _empty(x_NCHW: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    images, _, height, width = x_NCHW.shape
    memory_format = torch.contiguous_format if x_NCHW.is_contiguous() else torch.channels_last
    return (
        torch.empty((images, k, height, width), dtype=x_NCHW.dtype, device=x_NCHW.device, memory_format=memory_format),
        x_NCHW.new_empty((images, k), dtype=torch.float32),
        x_NCHW.new_empty((images, k), dtype=torch.int64),
    )


def _strides(x_NCHW: Tensor) -> tuple[int, int, int]:
    """Return the strides of images, channels and pixels. torch's own strides are arbitrary for a size of 1."""
    _, channels, height, width = x_NCHW.shape
    channels_first = x_NCHW.is_contiguous()
    return channels * height * width, height * width if channels_first else 1, 1 if channels_first else channels


def _tile(x_NCHW: Tensor, channels: int) -> tuple[int, int]:
    """Return the number of channels and pixels of a tile. The tile is longer along contiguous memory."""
    channels = triton.next_power_of_2(channels)
    pixels = triton.next_power_of_2(x_NCHW.shape[2] * x_NCHW.shape[3])
    if x_NCHW.is_contiguous():
        pixels = min(pixels, 256)
        return min(channels, _TILE // pixels), pixels
    channels = min(channels, 64)
    return channels, min(pixels, _TILE // channels)


# The kernels are registered as operators, so that memory measurement, profilers and torch.compile see their accesses.
_library = torch.library.Library("cnnmod", "FRAGMENT")
_library.define(
    "select_and_gather(Tensor x, Tensor reduce, Tensor expand, Tensor? gain, int k, bool by_index)"
    " -> (Tensor, Tensor, Tensor)"
)
_library.define("fuse_(Tensor(a!) x, Tensor y, Tensor score, Tensor? index, int start) -> ()")
for key in ("CUDA", "CPU"):  # on the CPU, Triton's interpreter runs the kernels
    _library.impl("select_and_gather", select_and_gather, key)
    _library.impl("fuse_", fuse_, key)
torch.library.register_fake("cnnmod::select_and_gather", lambda x, reduce, expand, gain, k, by_index: _empty(x, k))
torch.library.register_fake("cnnmod::fuse_", lambda x, y, score, index, start: None)

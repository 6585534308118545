"""The three steps of a MoD block as pure functions. Order, tie-breaking and fusion are defined only here.

The letters in a name are the shape of the tensor: N images, C channels, K selected channels, height H, width W.
`index_NK` holds channel indices (int64). `logit_NC` is the channel selector's output before the sigmoid.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from cnnmod.method.config import FuseTo, Order


def select_channels(logit_NC: Tensor, k: int, *, order: Order = "score") -> tuple[Tensor, Tensor]:
    """Select the k channels with the highest importance scores in each image (paper, section 3.1).

    Between equal scores, the lower channel index is selected. NaN ranks above every number, as in `torch.topk`, so that
    it appears in the result. The logits are ranked in float32 before the sigmoid, because sigmoids saturate and 16-bit
    values are often equal. Only the scores of the selected channels receive a gradient.

    Args:
        logit_NC: (N, C), the channel selector's output before the sigmoid.
        k: The number of channels to select, 1 ≤ k ≤ C.
        order: The selected channels are sorted by descending `"score"` or by ascending channel `"index"`.

    Returns:
        The importance scores (N, K), between 0 and 1 and of the logits' dtype, and the channel indices (N, K).

    Raises:
        ValueError: If k or order is not accepted.

    Examples:
        >>> score_NK, index_NK = select_channels(torch.tensor([[0.0, 2.0, 0.0, 1.0]]), k=3)
        >>> index_NK
        tensor([[1, 3, 0]])
        >>> select_channels(torch.tensor([[0.0, 2.0, 0.0, 1.0]]), k=3, order="index")[1]
        tensor([[0, 1, 3]])
    """
    channels = logit_NC.shape[-1]
    if not 1 <= k <= channels:
        raise ValueError(f"k must be from 1 to {channels}, the number of channels, not {k}")
    index_NK = _rank_keys(logit_NC.detach()).topk(k, dim=1).indices
    if order == "index":
        index_NK = index_NK.sort(dim=1).values
    elif order != "score":
        raise ValueError(f"order must be one of 'score', 'index', not {order!r}")
    return logit_NC.gather(1, index_NK).sigmoid(), index_NK


def _rank_keys(logit_NC: Tensor) -> Tensor:
    """Return unique integers that sort like the logits. Between equal logits, the lower channel index sorts higher.

    `topk` does not define the order of equal values, and a stable sort takes ten times as long.
    """
    channels = logit_NC.shape[1]
    bits = (logit_NC.float() + 0.0).view(torch.int32)  # adding 0.0 turns -0.0 into 0.0, which has other bits
    # Flip all bits of a negative float except the sign, since they sort in reverse.
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    ordered = ordered.masked_fill(logit_NC.isnan(), 0x7FFFFFFF)  # a NaN may have either sign and various bits
    tie_break = torch.arange(channels - 1, -1, -1, device=logit_NC.device)
    return torch.add(tie_break, ordered.long(), alpha=2**32)


def gather_channels(x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
    """Return the selected channels of each image, (N, K, H, W), from x (N, C, H, W) and channel indices (N, K).

    The result is a copy. It is channels last if x is.

    Examples:
        >>> x_NCHW = torch.arange(3.0).view(1, 3, 1, 1)
        >>> gather_channels(x_NCHW, torch.tensor([[2, 0]])).flatten()
        tensor([2., 0.])
    """
    # Torch's backward of `x_NCHW[image_N1, index_NK]` is many times slower than that of gather, mostly on a GPU.
    if x_NCHW.stride(1) == 1:  # channels last: torch.gather returns a contiguous tensor
        index_NHWK = index_NK[:, None, None, :].expand(-1, *x_NCHW.shape[2:], -1)
        return x_NCHW.movedim(1, 3).gather(3, index_NHWK).movedim(3, 1)
    return x_NCHW.gather(1, index_NK[:, :, None, None].expand(-1, -1, *x_NCHW.shape[2:]))


def fuse(x_NCHW: Tensor, y_NKHW: Tensor, *, to: FuseTo = "first", index_NK: Tensor | None = None) -> Tensor:
    """Add the Conv-Block's result to k channels of x; the other channels are copied unchanged (paper, section 3.1).

    Args:
        x_NCHW: The MoD block's input.
        y_NKHW: The Conv-Block's result, already scaled by the scores.
        to: The `"first"` k channels, the `"last"` k, or the `"original"` positions, given by `index_NK`.
        index_NK: The indices of the selected channels, without repetition within an image. Required for `"original"`,
            otherwise ignored.

    Returns:
        (N, C, H, W), a new tensor with x's dtype and memory format, as `x.clone()` returns it.

    Raises:
        ValueError: If `to` is not accepted, or is `"original"` without `index_NK`.

    Examples:
        >>> x_NCHW, y_NKHW = torch.zeros(1, 3, 1, 1), torch.ones(1, 1, 1, 1)
        >>> fuse(x_NCHW, y_NKHW).flatten(), fuse(x_NCHW, y_NKHW, to="last").flatten()
        (tensor([1., 0., 0.]), tensor([0., 0., 1.]))
    """
    y_NKHW = y_NKHW.to(x_NCHW.dtype)
    if to == "original":
        if index_NK is None:
            raise ValueError("to='original' needs index_NK, the indices of the selected channels")
        index_NKHW = index_NK[:, :, None, None].expand_as(y_NKHW)
        # The in-place form keeps x's memory format. torch.scatter_add does not.
        return x_NCHW.clone().scatter_add_(1, index_NKHW, y_NKHW)
    if to not in ("first", "last"):
        raise ValueError(f"to must be one of 'first', 'last', 'original', not {to!r}")
    start = 0 if to == "first" else x_NCHW.shape[1] - y_NKHW.shape[1]
    return _AddToSlice.apply(x_NCHW, y_NKHW, start)  # pyright: ignore[reportReturnType]  torch types apply as Any


class _AddToSlice(torch.autograd.Function):
    """Add y to the channels start, start + 1, … of x.

    The backward returns the gradient and a view of it. Autograd's backward of the slices and the concatenation would
    fill three tensors of x's size.
    """

    @staticmethod
    def forward(x_NCHW: Tensor, y_NKHW: Tensor, start: int) -> Tensor:
        stop = start + y_NKHW.shape[1]
        out_NCHW = x_NCHW.clone()  # torch.cat does not always keep the memory format of one image
        out_NCHW[:, start:stop] += y_NKHW
        return out_NCHW

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        _, y_NKHW, start = inputs
        ctx.start, ctx.stop = start, start + y_NKHW.shape[1]  # pyright: ignore[reportAttributeAccessIssue]  our own

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None, None], *inputs: Any) -> tuple[Tensor, int]:
        """Compute the additional batch dimension as more images."""
        *maps, start = inputs
        x_BNCHW, y_BNKHW = (
            value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            for value, dim in zip(maps, in_dims[:2], strict=True)
        )
        out = _AddToSlice.apply(x_BNCHW.flatten(0, 1), y_BNKHW.flatten(0, 1), start)
        assert isinstance(out, Tensor)
        return out.unflatten(0, x_BNCHW.shape[:2]), 0

    @staticmethod
    def backward(ctx: FunctionCtx, grad_NCHW: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]  one output
        return grad_NCHW, grad_NCHW[:, ctx.start : ctx.stop], None  # pyright: ignore[reportAttributeAccessIssue]  our own

"""The three steps of a MoD block as pure functions: the only home of order, ties and fusion.

Letters in names give shapes: N images, C channels, K selected channels, H height, W width. `index_NK` holds channel
indices (int64), `logit_NC` the channel selector's output before the sigmoid.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from cnnmod.method.config import FuseTo, Order


def select_channels(logit_NC: Tensor, k: int, *, order: Order = "score") -> tuple[Tensor, Tensor]:
    """Select, per image, the k channels with the highest importance scores (paper, section 3.1).

    Ties go to the lower channel index, and NaN is higher than any number, as in `torch.topk`, so that it shows in the
    result. The logits are ranked, not their sigmoids, and in float32: sigmoids saturate and 16-bit values tie. Only the
    selected channels' scores receive a gradient.

    Args:
        logit_NC: (N, C), the channel selector's output before the sigmoid.
        k: How many channels to select, 1 ≤ k ≤ C.
        order: The selected channels stand by descending `"score"` or by ascending channel `"index"`.

    Returns:
        The importance scores (N, K), in ]0, 1[ and of the logits' dtype, and the channel indices (N, K).

    Raises:
        ValueError: k or order is not accepted.

    Examples:
        >>> score_NK, index_NK = select_channels(torch.tensor([[0.0, 2.0, 0.0, 1.0]]), k=3)
        >>> index_NK
        tensor([[1, 3, 0]])
        >>> select_channels(torch.tensor([[0.0, 2.0, 0.0, 1.0]]), k=3, order="index")[1]
        tensor([[0, 1, 3]])
    """
    channels = logit_NC.shape[-1]
    if not 1 <= k <= channels:
        raise ValueError(f"k must be from 1 to the {channels} channels, not {k}")
    index_NK = _rank_keys(logit_NC.detach()).topk(k, dim=1).indices
    if order == "index":
        index_NK = index_NK.sort(dim=1).values
    elif order != "score":
        raise ValueError(f"order must be one of 'score', 'index', not {order!r}")
    return logit_NC.gather(1, index_NK).sigmoid(), index_NK


def select_slots(logit_NC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Select, per image, one channel for each of k slots (ours): for slot j the highest-scored of the channels
    j, j + k, j + 2k, … .

    Ties go to the lower channel index. The last C mod k channels are in no slot.

    Args:
        logit_NC: (N, C), the channel selector's output before the sigmoid.
        k: How many slots there are, 1 ≤ k ≤ C.

    Returns:
        The importance scores (N, K) and the channel indices (N, K), as of `select_channels`.

    Raises:
        ValueError: k is not accepted.

    Examples:
        >>> select_slots(torch.tensor([[0.0, 2.0, 5.0, 1.0, 0.0]]), k=2)[1]
        tensor([[2, 1]])
    """
    channels = logit_NC.shape[-1]
    if not 1 <= k <= channels:
        raise ValueError(f"k must be from 1 to the {channels} channels, not {k}")
    groups_NGK = logit_NC.detach()[:, : channels // k * k].unflatten(1, (-1, k))
    index_NK = torch.add(torch.arange(k, device=logit_NC.device), groups_NGK.argmax(1), alpha=k)
    return logit_NC.gather(1, index_NK).sigmoid(), index_NK


def _rank_keys(logit_NC: Tensor) -> Tensor:
    """Integers in the order of the logits, a tied one the larger the lower its channel index. `topk` leaves the
    order of ties open and a stable sort takes ten times as long; between these keys there are no ties."""
    channels = logit_NC.shape[1]
    bits = (logit_NC.float() + 0.0).view(torch.int32)  # + 0.0 makes -0.0 and 0.0 the same bits
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # a negative float's other bits count downwards
    ordered = ordered.masked_fill(logit_NC.isnan(), 0x7FFFFFFF)  # a NaN has either sign and any bits
    tie_break = torch.arange(channels - 1, -1, -1, device=logit_NC.device)
    return torch.add(tie_break, ordered.long(), alpha=2**32)


def gather_channels(x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
    """Take each image's selected channels: (N, C, H, W) and (N, K) give (N, K, H, W).

    Examples:
        >>> x_NCHW = torch.arange(3.0).view(1, 3, 1, 1)
        >>> gather_channels(x_NCHW, torch.tensor([[2, 0]])).flatten()
        tensor([2., 0.])
    """
    if x_NCHW.is_cuda:  # where the backward of an index is many times slower than that of gather
        return x_NCHW.gather(1, index_NK[:, :, None, None].expand(-1, -1, *x_NCHW.shape[2:]))
    image_N1 = torch.arange(x_NCHW.shape[0], device=x_NCHW.device)[:, None]
    return x_NCHW[image_N1, index_NK]


def fuse(x_NCHW: Tensor, y_NKHW: Tensor, *, to: FuseTo = "first", index_NK: Tensor | None = None) -> Tensor:
    """Add the Conv-Block's result to k channels of x; the others pass bit for bit (paper, section 3.1).

    Args:
        x_NCHW: The MoD block's input.
        y_NKHW: The Conv-Block's result, already scaled by the scores.
        to: The `"first"` k channels, the `"last"` k, or the `"original"` places that `index_NK` names.
        index_NK: The selected channels; needed for `"original"` only, where they differ within an image.

    Returns:
        (N, C, H, W), a new tensor of x's dtype and memory format.

    Raises:
        ValueError: `to` is not accepted, or `"original"` came without `index_NK`.

    Examples:
        >>> x_NCHW, y_NKHW = torch.zeros(1, 3, 1, 1), torch.ones(1, 1, 1, 1)
        >>> fuse(x_NCHW, y_NKHW).flatten(), fuse(x_NCHW, y_NKHW, to="last").flatten()
        (tensor([1., 0., 0.]), tensor([0., 0., 1.]))
    """
    y_NKHW = y_NKHW.to(x_NCHW.dtype)
    if to == "original":
        if index_NK is None:
            raise ValueError("to='original' needs index_NK, the places of the selected channels")
        places_NKHW = index_NK[:, :, None, None].expand_as(y_NKHW)
        return x_NCHW.clone().scatter_add_(1, places_NKHW, y_NKHW)  # a clone keeps the memory format, scatter_add not
    if to not in ("first", "last"):
        raise ValueError(f"to must be one of 'first', 'last', 'original', not {to!r}")
    start = 0 if to == "first" else x_NCHW.shape[1] - y_NKHW.shape[1]
    return _AddToSlice.apply(x_NCHW, y_NKHW, start)  # pyright: ignore[reportReturnType]  torch types apply as Any


class _AddToSlice(torch.autograd.Function):
    """x with y added to its channels start, start + 1, … . Autograd's own backward of slices and a concatenation
    fills three tensors of x's size; this one passes the gradient on and takes a view."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x_NCHW: Tensor, y_NKHW: Tensor, start: int) -> Tensor:
        stop = start + y_NKHW.shape[1]
        parts = [x_NCHW[:, :start], x_NCHW[:, start:stop] + y_NKHW, x_NCHW[:, stop:]]
        return torch.cat([part for part in parts if part.shape[1]], dim=1)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        _, y_NKHW, start = inputs
        ctx.start, ctx.stop = start, start + y_NKHW.shape[1]  # pyright: ignore[reportAttributeAccessIssue]  our own

    @staticmethod
    def backward(ctx: FunctionCtx, grad_NCHW: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]  one output
        return grad_NCHW, grad_NCHW[:, ctx.start : ctx.stop], None  # pyright: ignore[reportAttributeAccessIssue]  our own

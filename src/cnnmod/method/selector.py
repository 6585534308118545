"""ChannelSelector: the logits of the importance scores, in float32 whatever the dtype of the network."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeGuard

import torch
import torch.fx
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

# By name, because most of these exist as a torch function and as a Tensor method.
_PRODUCTS = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "addmm", "bmm", "baddbmm", "einsum"}


class ChannelSelector(nn.Module):
    """Compute the logits of the importance scores: W2 · relu(W1 · avgpool(x)), without biases (paper, section 3.1).

    The computation is in float32 or a wider dtype, even under autocast and in a 16-bit network, because many 16-bit
    logits would be equal.

    Args:
        channels: The number of channels that are read and scored.
        hidden: The number of features between the two layers.

    Examples:
        >>> ChannelSelector(64, hidden=4)(torch.rand(2, 64, 8, 8)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self, channels: int, hidden: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden, bias=False, device=device, dtype=dtype)
        self.expand = nn.Linear(hidden, channels, bias=False, device=device, dtype=dtype)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N, C, H, W) to logits (N, C)."""
        return _logits(x_NCHW, self.reduce, self.expand)


@torch.fx.wrap
def _logits(x_NCHW: Tensor, reduce: nn.Module, expand: nn.Module) -> Tensor:
    """Call the two layers instead of reading their weights, so that hooks, adapters and replaced layers take effect."""
    dtype = torch.promote_types(x_NCHW.dtype, torch.float32)
    with _no_autocast(x_NCHW.device.type), _promoting(dtype, reduce, expand):
        pooled_NC = x_NCHW.mean((2, 3), dtype=dtype)
        hidden = reduce(pooled_NC).relu().to(dtype)  # the layer may return a narrower dtype than its input has
        return expand(hidden).to(dtype)


def _no_autocast(device_type: str) -> AbstractContextManager[object]:
    enabled = device_type != "meta" and torch.is_autocast_enabled(device_type)  # the meta device has no autocast
    return torch.autocast(device_type, enabled=False) if enabled else nullcontext()


def _promoting(dtype: torch.dtype, reduce: nn.Module, expand: nn.Module) -> AbstractContextManager[object]:
    """Return the context in which the two layers accept an input of `dtype`.

    Layers whose weight has another dtype, or that have no plain weight (adapters), need promoted matrix products.
    """
    first, second = reduce._parameters.get("weight"), expand._parameters.get("weight")
    if first is None or second is None or not first.dtype == second.dtype == dtype:
        return _PromotedProducts(dtype)
    return nullcontext()


class _PromotedProducts(TorchFunctionMode):
    """Compute matrix products of tensors with different dtypes in `dtype`. Without it, torch raises an error."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _PRODUCTS:
            floats = filter(_is_floating, tree_leaves((args, kwargs)))
            if len({value.dtype for value in floats}) > 1:
                args, kwargs = tree_map(self._promote, (args, kwargs))
        return func(*args, **(kwargs or {}))

    def _promote(self, value: Any) -> Any:
        return value.to(self.dtype) if _is_floating(value) else value


def _is_floating(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point()

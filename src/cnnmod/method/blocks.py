"""MoDBlock: the module that calls `functional.py`, in the training form."""

from dataclasses import fields
from typing import Any, Literal, TypeAlias

import torch
import torch.fx
from torch import Tensor, nn

from cnnmod.method.config import MoDConfig, Order
from cnnmod.method.functional import fuse, gather_channels, select_channels
from cnnmod.method.selector import ChannelSelector

Layout: TypeAlias = Literal["NCHW", "NHWC"]
_NO_TORCHSCRIPT = "{} does not support MoD blocks; use torch.export on cnnmod.lower(model, 'pt2'), or cnnmod.export"
for name in ("select_channels", "gather_channels", "fuse"):
    torch.fx.wrap(name)  # torch.fx traces each call as one node


class MoDBlock(nn.Module):
    """A MoD block: select k channels, run the Conv-Block on them, scale by the scores, fuse (paper, section 3.1).

    `forward` is the training form and supports autograd. `cnnmod.lower` replaces it by a form for inference.

    Args:
        conv_block: The host's own block, shrunk: (N, k, H, W) → (N, k, H, W), or (N, C, H, W) with `fuse_to="all"`.
        channels: C, the number of channels of the MoD block's input and output.
        k: The number of selected channels.
        config: The method's settings. In a converted network `c` is a number and `placement` is not a callable.
        layout: `"NHWC"` if the host's blocks take and return (N, H, W, C). The Conv-Block then takes (N, H, W, k).
        activation: The host block's last activation. With `fuse_to="all"` it is applied after the fusion. `None` is
            the identity.

    Attributes:
        num_candidates: The number of channels at the start from which the block selects. It is C unless
            `config.candidates` is set.
        gain_K: The learned factors of the scores with `config.identity_start`, otherwise `None`.

    Raises:
        ValueError: If k is not from 1 to C. `forward` raises it if the input is not (N, C, H, W) with H, W ≥ 1.

    Examples:
        >>> block = MoDBlock(torch.nn.Conv2d(1, 1, 3, padding=1), channels=64, k=1)
        >>> block(torch.rand(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    selector: ChannelSelector  # does not exist for select="random" and scale="none"
    fixed_index_K: Tensor  # the channels in evaluation mode; exists only for select="random"
    gain_K: nn.Parameter | None

    def __init__(
        self,
        conv_block: nn.Module,
        channels: int,
        k: int,
        config: MoDConfig = MoDConfig(),
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        layout: Layout = "NCHW",
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= k <= channels:
            raise ValueError(f"k must be from 1 to {channels}, the number of channels, not {k}")
        self.conv_block = conv_block
        self.channels, self.k, self.config = channels, k, config
        self.layout: Layout = layout
        self.num_candidates = (
            channels if config.candidates is None else min(channels, -(-config.candidates * k // 16) * 16)
        )
        if config.select == "random":
            self.register_buffer("fixed_index_K", _draw(self.num_candidates, k, config.order, device))
        elif config.scale != "none":
            self.selector = ChannelSelector(self.num_candidates, max(1, channels // config.reduction), device, dtype)
        if config.fuse_to == "all":
            self.activation = nn.Identity() if activation is None else activation
        self.gain_K = nn.Parameter(torch.zeros(k, device=device, dtype=dtype)) if config.identity_start else None

    def forward(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (N, C, H, W), or (N, H, W, C) by `layout`, to the same shape.

        The Conv-Block gets all other arguments unchanged.
        """
        if self.layout == "NHWC":
            return self._forward(x_NCHW.movedim(3, 1), *args, **kwargs).movedim(1, 3)
        return self._forward(x_NCHW, *args, **kwargs)

    def _forward(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check_input(x_NCHW, self.channels)
        score_NK, index_NK = self.select(x_NCHW)
        # Both are copies, because the first layer of the Conv-Block may change its input in place.
        is_first = self.config.select == "first"
        x_NKHW = x_NCHW[:, : self.k].clone() if is_first else gather_channels(x_NCHW, index_NK)
        if score_NK is not None and self.config.scale == "input":
            x_NKHW = (x_NKHW * score_NK[:, :, None, None]).to(x_NCHW.dtype)
        y_NKHW = self._run_conv_block(x_NKHW, *args, **kwargs)
        if score_NK is not None and self.config.scale != "input":
            y_NKHW = y_NKHW * score_NK[:, :, None, None]
        if self.config.fuse_to == "all":
            return self.activation(x_NCHW + y_NKHW.to(x_NCHW.dtype))
        return fuse(x_NCHW, y_NKHW, to=self.config.fuse_to, index_NK=index_NK)

    def _run_conv_block(self, x_NKHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.layout == "NHWC":
            return self.conv_block(x_NKHW.movedim(1, 3), *args, **kwargs).movedim(3, 1)
        return self.conv_block(x_NKHW, *args, **kwargs)

    def select(self, x_NCHW: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the scores (N, K) of the selected channels and their indices (N, K).

        The scores are `None` if the config has no scores and no gain.
        """
        score_NK, index_NK = self._select(x_NCHW)
        if self.gain_K is not None:
            gain_NK = _for_each_image(self.gain_K, x_NCHW)
            score_NK = gain_NK if score_NK is None else score_NK * gain_NK
        return score_NK, index_NK

    def _select(self, x_NCHW: Tensor) -> tuple[Tensor | None, Tensor]:
        if self.config.select == "random":
            index_K = self.fixed_index_K
            if self.training:
                index_K = _draw(self.num_candidates, self.k, self.config.order, x_NCHW.device)
            return None, _for_each_image(index_K, x_NCHW)
        if self.config.select == "first":
            index_NK = _first(self.k, x_NCHW)
            if self.config.scale == "none":
                return None, index_NK
            return self.selector(x_NCHW[:, : self.num_candidates])[:, : self.k].sigmoid(), index_NK
        logit_NC = self.selector(x_NCHW[:, : self.num_candidates])
        return select_channels(logit_NC, self.k, order=self.config.order)

    def extra_repr(self) -> str:
        return ", ".join([f"channels={self.channels}", f"k={self.k}", *_changed_fields(self.config)])

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
        """Raise `ValueError`. `nn.Module` calls this method instead of `forward` during torch.jit.trace."""
        raise ValueError(_NO_TORCHSCRIPT.format("torch.jit.trace"))

    def __prepare_scriptable__(self) -> nn.Module:
        """Raise `ValueError`. torch.jit.script calls this method first."""
        raise ValueError(_NO_TORCHSCRIPT.format("torch.jit.script"))


def _changed_fields(config: MoDConfig) -> list[str]:
    """Return the fields that differ from their defaults. If `placement` is a tuple, only its length is shown."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    texts = {name: repr(value) for name, value in values.items() if value != getattr(MoDConfig(), name)}
    if isinstance(config.placement, tuple):
        texts["placement"] = f"{len(config.placement)} names"
    return [f"{name}={text}" for name, text in texts.items()]


@torch.fx.wrap
def _draw(num_candidates: int, k: int, order: Order, device: torch.device | None) -> Tensor:
    index_K = torch.randperm(num_candidates, device=device)[:k]
    return index_K.sort().values if order == "index" else index_K


@torch.fx.wrap
def _first(k: int, x_NCHW: Tensor) -> Tensor:
    return torch.arange(k, device=x_NCHW.device).expand(x_NCHW.shape[0], -1)


@torch.fx.wrap
def _for_each_image(index_K: Tensor, x_NCHW: Tensor) -> Tensor:
    return index_K.expand(x_NCHW.shape[0], -1)


@torch.fx.wrap
def check_input(x_NCHW: Tensor, channels: int) -> None:
    """Raise `ValueError` if the input is not (N, C, H, W) with H, W ≥ 1."""
    if x_NCHW.ndim != 4 or x_NCHW.shape[1] != channels or min(x_NCHW.shape[2:]) < 1:
        raise ValueError(
            f"a MoD block of {channels} channels takes (N, {channels}, H, W) with H, W ≥ 1, not {tuple(x_NCHW.shape)}"
        )

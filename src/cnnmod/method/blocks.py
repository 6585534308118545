"""ChannelSelector and MoDBlock: the modules around `functional.py`."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from cnnmod.method.config import MoDConfig
from cnnmod.method.functional import fuse, gather_channels, select_channels


class ChannelSelector(nn.Module):
    """Logits of the importance scores: W2 · relu(W1 · avgpool(x)), without biases (paper, section 3.1).

    It computes in float32 at least, under autocast and in a 16-bit network too: in fewer bits logits tie.

    Args:
        channels: How many channels it sees and scores.
        hidden: The width between the two layers.

    Example:
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
        """(N, C, H, W) → logits (N, C)."""
        dtype = torch.promote_types(x_NCHW.dtype, torch.float32)
        with _no_autocast(x_NCHW.device.type):
            pooled_NC = x_NCHW.mean((2, 3), dtype=dtype)
            hidden = nn.functional.linear(pooled_NC, self.reduce.weight.to(dtype)).relu()
            return nn.functional.linear(hidden, self.expand.weight.to(dtype))


def _no_autocast(device_type: str) -> AbstractContextManager[object]:
    available = torch.amp.is_autocast_available(device_type)  # the meta device has none
    enabled = available and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if enabled else nullcontext()


class MoDBlock(nn.Module):
    """A MoD block: select k channels, run the Conv-Block on them, scale by the scores, fuse (paper, section 3.1).

    `forward` is the training form, safe for autograd; `cnnmod.lower` gives the forms for inference.

    Args:
        conv_block: The host's own block, shrunken: (N, k, H, W) → (N, k, H, W).
        channels: C, the channels of the MoD block's input and output.
        k: How many channels are selected.
        config: The method's choices; as `convert_` leaves it, c is a number and `placement` is data.

    Attributes:
        pool: Only the first `pool` channels are candidates; C unless `config.candidates` says otherwise.

    Raises:
        ValueError: k is not from 1 to C; in `forward`, an input that is not (N, C, H, W) with H, W ≥ 1.

    Example:
        >>> block = MoDBlock(torch.nn.Conv2d(1, 1, 3, padding=1), channels=64, k=1)
        >>> block(torch.rand(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    selector: ChannelSelector  # where the selection is not random
    fixed_index_K: Tensor  # where it is: the draw for evaluation

    def __init__(
        self,
        conv_block: nn.Module,
        channels: int,
        k: int,
        config: MoDConfig = MoDConfig(),
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= k <= channels:
            raise ValueError(f"k must be from 1 to the {channels} channels, not {k}")
        self.conv_block = conv_block
        self.channels, self.k, self.config = channels, k, config
        self.pool = channels if config.candidates is None else min(channels, -(-config.candidates * k // 16) * 16)
        if config.select == "random":
            self.register_buffer("fixed_index_K", self._draw(device))
        else:
            self.selector = ChannelSelector(self.pool, max(1, channels // config.reduction), device, dtype)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        self.check_input(x_NCHW)
        score_NK, index_NK = self.select(x_NCHW)
        y_NKHW = self.conv_block(gather_channels(x_NCHW, index_NK))
        if score_NK is not None:
            y_NKHW = y_NKHW * score_NK[:, :, None, None]
        return fuse(x_NCHW, y_NKHW, to=self.config.fuse_to, index_NK=index_NK)

    def check_input(self, x_NCHW: Tensor) -> None:
        """Raise `ValueError` for what is not (N, C, H, W) with H, W ≥ 1."""
        if x_NCHW.ndim != 4 or x_NCHW.shape[1] != self.channels or min(x_NCHW.shape[2:]) < 1:
            raise ValueError(
                f"a MoD block of {self.channels} channels takes (N, {self.channels}, H, W) with H, W ≥ 1, "
                f"not {tuple(x_NCHW.shape)}"
            )

    def select(self, x_NCHW: Tensor) -> tuple[Tensor | None, Tensor]:
        """The selected channels' scores (N, K), `None` for a random selection, and their indices (N, K)."""
        images = x_NCHW.shape[0]
        if self.config.select == "random":
            index_K = self._draw(x_NCHW.device) if self.training else self.fixed_index_K
            return None, index_K.expand(images, -1)
        logit_NC = self.selector(x_NCHW[:, : self.pool])
        if self.config.select == "first":
            index_K = torch.arange(self.k, device=x_NCHW.device)
            return logit_NC[:, : self.k].sigmoid(), index_K.expand(images, -1)
        return select_channels(logit_NC, self.k, order=self.config.order)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, k={self.k}, config={self.config}"

    def _draw(self, device: torch.device | None) -> Tensor:
        index_K = torch.randperm(self.pool, device=device)[: self.k]
        return index_K.sort().values if self.config.order == "index" else index_K

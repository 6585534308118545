"""The forms of a MoD block for runtimes that run a graph: torch.export, ONNX Runtime and OpenVINO."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from cnnmod.deploy.forms import OURS, Form, Handles
from cnnmod.deploy.live import has_plain_selector
from cnnmod.method.blocks import MoDBlock
from cnnmod.method.functional import gather_channels


class GraphForm(Form):
    """The MoD block for a runtime that compiles a graph: plain operators, constant k, no control flow.

    The selected channels are gathered along one axis, which combines images and channels. Fusion is a constant 1×1
    convolution from k to C channels and an addition. Runtimes run both as one operator and keep the layout of the
    feature map. With `fuse_to="all"`, the Conv-Block writes all channels itself.
    """

    handles: ClassVar[Handles] = {**Form.handles, **OURS}
    spread_CK11: Tensor

    def __init__(self, block: MoDBlock) -> None:
        super().__init__(block)
        if block.config.fuse_to in ("original", "all"):
            return
        parameter = next(block.parameters(), torch.empty(0))
        start = block.channels - block.k if block.config.fuse_to == "last" else 0
        spread_CK = torch.zeros(block.channels, block.k, dtype=parameter.dtype, device=parameter.device)
        spread_CK[start : start + block.k] = torch.eye(block.k)
        self.register_buffer("spread_CK11", spread_CK[:, :, None, None])

    def _forward(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        source_NCHW, score_NK11, index_NK = self._select_from(x_NCHW)
        x_NKHW = self._gather(source_NCHW, index_NK)
        if score_NK11 is not None and self.config.scale == "input":
            x_NKHW = (x_NKHW * score_NK11).to(x_NCHW.dtype)
        y_NKHW = self._run_conv_block(x_NKHW, *args, **kwargs)
        if score_NK11 is not None and self.config.scale != "input":
            y_NKHW = y_NKHW * score_NK11
        return self._fuse(x_NCHW, y_NKHW.to(x_NCHW.dtype), index_NK)

    def _select_from(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the feature map to select from, the scores (N, K, 1, 1) and the channel indices (N, K)."""
        score_NK, index_NK = self.select(x_NCHW)
        return x_NCHW, None if score_NK is None else score_NK[:, :, None, None], index_NK

    def _fuse(self, x_NCHW: Tensor, y_NKHW: Tensor, index_NK: Tensor) -> Tensor:
        if self.config.fuse_to == "all":
            return self.activation(x_NCHW + y_NKHW)
        if self.config.fuse_to != "original":
            return x_NCHW + torch.conv2d(y_NKHW, self.spread_CK11)
        one_hot_NCK = (index_NK[:, None] == torch.arange(self.channels, device=x_NCHW.device)[:, None]).to(x_NCHW.dtype)
        return x_NCHW + (one_hot_NCK @ y_NKHW.flatten(2)).unflatten(2, x_NCHW.shape[2:])

    def _gather(self, x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
        if self.config.select == "first":
            return x_NCHW[:, : self.k].clone()  # the Conv-Block may change it in place
        if self.config.select == "random":
            return x_NCHW.index_select(1, self.fixed_index_K)
        image_N1 = torch.arange(x_NCHW.shape[0], device=x_NCHW.device)[:, None]
        flat_index = (index_NK + x_NCHW.shape[1] * image_N1).flatten()
        return x_NCHW.flatten(0, 1).index_select(0, flat_index).unflatten(0, (-1, self.k))


class OnnxForm(GraphForm):
    """The MoD block for ONNX Runtime and OpenVINO, where each small operator of a MoD block takes 5 to 10 µs.

    The layers of a plain selector are 1×1 convolutions, so that no reshape is needed. The gather is one operator. The
    TopK of these runtimes selects the lower index among equal values (in OpenVINO if it is set to be stable).
    """

    def __init__(self, block: MoDBlock) -> None:
        super().__init__(block)
        # Checked here, since the tensors of an exporter are not plain tensors.
        self.reads_weights = block.config.select == "learned" and has_plain_selector(block)

    def _select_from(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        if self.config.select != "learned":
            return super()._select_from(x_NCHW)
        candidates_NCHW = x_NCHW[:, : self.num_candidates] if self.num_candidates < self.channels else x_NCHW
        logit_NC11 = self._logits(candidates_NCHW)
        logit_NK11, index_NK11 = logit_NC11.topk(self.k, 1)
        if self.config.order == "index":
            index_NK11 = index_NK11.sort(1).values
            logit_NK11 = logit_NC11.gather(1, index_NK11)
        score_NK11 = logit_NK11.sigmoid()
        if self.gain_K is not None:
            score_NK11 = score_NK11 * self.gain_K[:, None, None]
        return candidates_NCHW, score_NK11, index_NK11.flatten(1)

    def _logits(self, candidates_NCHW: Tensor) -> Tensor:
        if not self.reads_weights:
            return self.selector(candidates_NCHW)[:, :, None, None]
        dtype = torch.promote_types(candidates_NCHW.dtype, torch.float32)
        layers = (self.selector.reduce, self.selector.expand)
        reduce, expand = (layer.weight[:, :, None, None].to(dtype) for layer in layers)
        return torch.conv2d(torch.conv2d(candidates_NCHW.to(dtype).mean((2, 3), keepdim=True), reduce).relu(), expand)

    def _gather(self, x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
        if self.config.select == "learned":
            return gather_planes(x_NCHW, index_NK)
        return super()._gather(x_NCHW, index_NK)


@torch.library.custom_op("cnnmod::gather_planes", mutates_args=())
def gather_planes(x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
    """`gather_channels` as one operator, which `onnx_file.py` writes as one ONNX operator."""
    return gather_channels(x_NCHW, index_NK)


@gather_planes.register_fake
def _(x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
    return x_NCHW.new_empty((*index_NK.shape, *x_NCHW.shape[2:]))

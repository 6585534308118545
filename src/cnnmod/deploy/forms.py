"""The forms of a MoD block for inference. Each target lists the forms that it supports."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from operator import gt
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, linear
from torch.nn.modules.module import _has_any_global_hook

from cnnmod.deploy.live import DirectLayers, has_plain_selector, is_plain, selector_weights
from cnnmod.deploy.pointwise import with_pointwise_products
from cnnmod.method.blocks import MoDBlock, check_input
from cnnmod.method.functional import gather_channels

Handles: TypeAlias = Mapping[str, Collection[object] | None]
OURS: Handles = {  # the values of these fields that are not in the paper, for forms that support them
    "select": ("learned", "random", "first", "slots"),
    "scale": ("output", "input", "none"),
    "fuse_to": ("first", "last", "original", "all"),
}


class Form(MoDBlock):
    """Base class of forms. A form has the layers of another MoD block.

    Attributes:
        handles: The fields of `MoDConfig` that the form supports, each with the supported values. `None` stands for all
            values. A form does not accept a block whose config has a field that is not listed.
        layouts: The supported memory layouts.
    """

    handles: ClassVar[Handles] = {
        "select": ("learned", "random", "first"),
        "order": ("score", "index"),
        "scale": ("output",),
        "fuse_to": ("first", "last", "original"),
        "candidates": None,
        "identity_start": (False, True),
        # These four fields affect how a block is built. They do not affect its forward pass.
        "c": None,
        "reduction": None,
        "residual": (False, True),
        "placement": None,
    }
    layouts: ClassVar[Collection[str]] = ("NCHW", "NHWC")

    def __init__(self, block: MoDBlock) -> None:
        super().__init__(block.conv_block, block.channels, block.k, block.config, layout=block.layout)
        if block.config.select == "random":
            self.fixed_index_K = block.fixed_index_K
        elif block.config.scale != "none":
            self.selector = block.selector
        if block.config.fuse_to == "all":
            self.write, self.activation = block.write, block.activation
        self.gain_K = block.gain_K

    @classmethod
    def accepts(cls, block: MoDBlock) -> bool:
        """Return whether the form computes what the block computes. An unknown field or value is not accepted."""
        has_known_class = type(block) is MoDBlock or isinstance(block, Form)  # a form has the same layers
        if not has_known_class or not is_plain(block) or block.layout not in cls.layouts:
            return False
        for field in fields(block.config):
            accepted = cls.handles.get(field.name, ())
            if accepted is not None and getattr(block.config, field.name) not in accepted:
                return False
        return True


class EagerForm(Form):
    """The MoD block for eager PyTorch, where dispatching small operators takes most of its time.

    The result is added to a copy of the input in place, or to the input itself if `InPlaceSequential` finds that
    nothing else can read it. Small 1×1 convolutions of the Conv-Block are computed as matrix products. On a CPU in
    float32, one `topk` ranks the channels.
    """

    handles: ClassVar[Handles] = {**Form.handles, **OURS}
    layouts = ("NCHW",)

    def __init__(self, block: MoDBlock) -> None:
        super().__init__(block)
        self.conv_block = with_pointwise_products(block.conv_block)
        self.start = 0 if block.config.fuse_to == "first" else block.channels - block.k
        self.to_original = block.config.fuse_to == "original"
        self.uses_one_topk = block.config.select == "learned" and block.config.order == "score"
        self.direct_selector = DirectLayers(self, "selector") if has_plain_selector(block) else None

    def forward(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) → a new tensor."""
        if torch.compiler.is_compiling():  # the compiler decides which tensors are overwritten
            return super().forward(x_NCHW, *args, **kwargs)
        return self.overwrite(x_NCHW.clone(), *args, **kwargs)

    def may_overwrite(self) -> bool:
        """Return whether `overwrite` may be called. It must not change a tensor that a hook can see."""
        return is_plain(self) and not self.training and not _has_any_global_hook()

    def overwrite(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) → the same tensor, changed in place. The caller must hold its only reference."""
        if x_NCHW.dim() != 4 or x_NCHW.size(1) != self.channels or x_NCHW.size(2) * x_NCHW.size(3) == 0:
            check_input(x_NCHW, self.channels)
        if x_NCHW.requires_grad:
            raise ValueError("a lowered network is for inference: call it under torch.inference_mode()")
        selected = self._select_quickly(x_NCHW)
        if selected is None:
            selected = self._select_default(x_NCHW)
            if self._is_selector_changed():
                x_NCHW = x_NCHW.clone()
        score_NK11, index_NK = selected
        if self.config.select == "first":
            x_NKHW = x_NCHW.narrow(1, 0, self.k).clone()
        elif x_NCHW.size(0) == 1 and x_NCHW.is_contiguous():
            x_NKHW = x_NCHW.index_select(1, index_NK[0])  # four times as fast as one index for each image
        else:
            x_NKHW = gather_channels(x_NCHW, index_NK)
        if score_NK11 is not None and self.config.scale == "input":
            x_NKHW, score_NK11 = (x_NKHW * score_NK11).to(x_NCHW.dtype), None
        y_NKHW = self.conv_block(x_NKHW, *args, **kwargs)
        if self.config.fuse_to == "all":
            y_NKHW = y_NKHW if score_NK11 is None else y_NKHW * score_NK11
            return self.activation(x_NCHW.add_(self.write(y_NKHW.to(x_NCHW.dtype))))
        if self.to_original:
            y_NKHW = (y_NKHW if score_NK11 is None else y_NKHW * score_NK11).to(x_NCHW.dtype)
            return x_NCHW.scatter_add_(1, index_NK[:, :, None, None].expand_as(y_NKHW), y_NKHW)
        target_NKHW = x_NCHW.narrow(1, self.start, self.k)
        if score_NK11 is None:
            target_NKHW.add_(y_NKHW)
        else:
            target_NKHW.addcmul_(y_NKHW, score_NK11)
        return x_NCHW

    def _is_selector_changed(self) -> bool:
        """Return whether the selector has a hook or a replaced layer, which may keep the input."""
        return hasattr(self, "selector") and (self.direct_selector is None or not self.direct_selector.are_unchanged())

    def _select_default(self, x_NCHW: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the scores (N, K, 1, 1) and the channel indices (N, K) of `select`."""
        score_NK, index_NK = self.select(x_NCHW)
        return None if score_NK is None else score_NK[:, :, None, None], index_NK

    def _select_quickly(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the result of `_select_default`, or `None` if it could differ.

        This method uses few operators, since the overhead of operators and of Python is larger than the arithmetic.
        """
        if not self.uses_one_topk or not x_NCHW.is_cpu or x_NCHW.dtype != torch.float32 or self._is_selector_changed():
            return None
        weights = selector_weights(self)
        if weights is None or torch.is_autocast_enabled("cpu"):
            return None
        reduce, expand = weights
        if reduce.dtype != torch.float32 or expand.dtype != torch.float32:
            return None
        candidates_NCHW = x_NCHW if self.num_candidates == self.channels else x_NCHW[:, : self.num_candidates]
        if x_NCHW.is_contiguous():
            pooled_NC = candidates_NCHW.mean((2, 3))
        else:  # average pooling is the faster mean in the channels-last memory format
            pooled_NC = avg_pool2d(candidates_NCHW, x_NCHW.shape[2:]).flatten(1)
        logit_NC = linear(linear(pooled_NC, reduce).relu_(), expand)
        logit_NK, index_NK = logit_NC.topk(min(self.k + 1, self.num_candidates), 1)
        for logits in logit_NK.tolist():
            if not all(map(gt, logits, logits[1:])):  # topk does not define the order of equal logits and of NaNs
                return None
        score_NK11 = logit_NK[:, : self.k, None, None].sigmoid_()
        if self.gain_K is not None:
            score_NK11.mul_(self.gain_K[:, None, None])
        return score_NK11, index_NK[:, : self.k]


class GraphForm(Form):
    """The MoD block for a runtime that compiles a graph: plain operators, constant k, no control flow.

    The selected channels are gathered along one axis, which combines images and channels. Fusion is a constant 1×1
    convolution from k to C channels and an addition. Runtimes run both as one operator and keep the layout of the
    feature map. With `fuse_to="all"`, the learned convolution is used instead.
    """

    handles: ClassVar[Handles] = {**Form.handles, **OURS}
    spread_CK11: Tensor

    def __init__(self, block: MoDBlock) -> None:
        super().__init__(block)
        if block.config.fuse_to in ("original", "all"):
            return
        parameter = next(block.parameters())
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
            return self.activation(x_NCHW + self.write(y_NKHW))
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
        if self.config.select in ("learned", "slots"):
            return gather_planes(x_NCHW, index_NK)
        return super()._gather(x_NCHW, index_NK)


@torch.library.custom_op("cnnmod::gather_planes", mutates_args=())
def gather_planes(x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
    """`gather_channels` as one operator, which `onnx_file.py` writes as one ONNX operator."""
    return gather_channels(x_NCHW, index_NK)


@gather_planes.register_fake
def _(x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
    return x_NCHW.new_empty((*index_NK.shape, *x_NCHW.shape[2:]))

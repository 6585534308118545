"""The forms of a MoD block for inference. Each target lists the forms that it supports."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from operator import gt
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, linear

from cnnmod.deploy.live import DirectLayers, has_global_hook, has_plain_selector, is_dense, is_plain, selector_weights
from cnnmod.deploy.pointwise import with_pointwise_products
from cnnmod.method.blocks import MoDBlock, check_input
from cnnmod.method.functional import gather_channels

Handles: TypeAlias = Mapping[str, Collection[object] | None]
OURS: Handles = {  # the values of these fields that are not in the paper, for forms that support them
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
        meta = torch.device("meta")  # for the parts that are replaced below; no random numbers are drawn
        super().__init__(block.conv_block, block.channels, block.k, block.config, meta, layout=block.layout)
        if block.config.select == "random":
            self.fixed_index_K = block.fixed_index_K
        elif block.config.scale != "none":
            self.selector = block.selector
        if block.config.fuse_to == "all":
            self.activation = block.activation
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
        return is_plain(self) and not self.training and not has_global_hook()

    def is_plain_call(self, device_type: str, x_NCHW: Tensor, args: Any, kwargs: Any) -> bool:
        """Return whether the block is called with dense images (N, C, H, W) on a device of this type and nothing else.

        The images must not require gradients, and autocast must be off.
        """
        return (
            x_NCHW.device.type == device_type
            and x_NCHW.dim() == 4
            and x_NCHW.size(1) == self.channels
            and x_NCHW.size(2) * x_NCHW.size(3) > 0
            and is_dense(x_NCHW)
            and not (x_NCHW.requires_grad or args or kwargs)
            and not torch.is_autocast_enabled(device_type)
        )

    def overwrite(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) → the result, which may be in the memory of x. The caller must hold the only reference to x."""
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
            return self.activation(x_NCHW.add_(y_NKHW.to(x_NCHW.dtype)))
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

"""lower(model, runtime): a copy for inference, its MoD blocks in the form that this runtime runs fastest."""

import copy
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, linear
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cnnmod.deploy.flow import trace_flow
from cnnmod.method.blocks import MoDBlock, check_input
from cnnmod.method.convert import mod_blocks, swap_
from cnnmod.method.functional import gather_channels
from cnnmod.method.trace import check_bare


class EagerForm(MoDBlock):
    """The MoD block for eager PyTorch, where most of its time goes into dispatching small operators.

    It adds the result to its input in the input's memory, which is why it is for inference only. On a CPU in float32
    it also ranks with one `topk`, and it computes the Conv-Block's 1×1 convolutions as matrix products.
    """

    def __init__(self, block: MoDBlock) -> None:
        super().__init__(_with_pointwise_products(block.conv_block), block.channels, block.k, block.config)
        if block.config.select == "random":
            self.fixed_index_K = block.fixed_index_K
        else:
            self.selector = block.selector
        self.gain_K = block.gain_K
        self.start = 0 if block.config.fuse_to == "first" else block.channels - block.k
        self.to_original = block.config.fuse_to == "original"
        if block.config.select == "learned" and block.config.order == "score":
            self.weights = (self.selector.reduce.weight, self.selector.expand.weight)  # a tuple is looked up faster
        else:
            self.weights = None

    def forward(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) → the same tensor, changed."""
        if x_NCHW.size(1) != self.channels:
            check_input(x_NCHW, self.channels)
        if x_NCHW.requires_grad:
            raise ValueError("a lowered network is for inference: call it under torch.inference_mode()")
        if self.weights is None or not x_NCHW.is_cpu or x_NCHW.dtype != torch.float32:
            score_NK11, index_NK = self._select_any(x_NCHW)
        else:
            score_NK11, index_NK = self._select_on_cpu(x_NCHW, *self.weights)
        if x_NCHW.size(0) == 1 and x_NCHW.is_contiguous():
            x_NKHW = x_NCHW.index_select(1, index_NK[0])  # a quarter of the time of an index for each image
        else:
            x_NKHW = gather_channels(x_NCHW, index_NK)
        y_NKHW = self.conv_block(x_NKHW, *args, **kwargs)
        if self.to_original:
            y_NKHW = (y_NKHW if score_NK11 is None else y_NKHW * score_NK11).to(x_NCHW.dtype)
            return x_NCHW.scatter_add_(1, index_NK[:, :, None, None].expand_as(y_NKHW), y_NKHW)
        target_NKHW = x_NCHW.narrow(1, self.start, self.k)
        if score_NK11 is None:
            target_NKHW.add_(y_NKHW)
        else:
            target_NKHW.addcmul_(y_NKHW, score_NK11)
        return x_NCHW

    def _select_any(self, x_NCHW: Tensor) -> tuple[Tensor | None, Tensor]:
        """`select`, with the scores as (N, K, 1, 1)."""
        score_NK, index_NK = self.select(x_NCHW)
        return None if score_NK is None else score_NK[:, :, None, None], index_NK

    def _select_on_cpu(self, x_NCHW: Tensor, reduce: Tensor, expand: Tensor) -> tuple[Tensor | None, Tensor]:
        """The same, in as few operators and as little Python as the CPU allows: both are dear between large ones."""
        if torch.is_autocast_enabled("cpu"):
            return self._select_any(x_NCHW)
        pool_NCHW = x_NCHW if self.pool == self.channels else x_NCHW[:, : self.pool]
        # channels last, average pooling is the faster mean
        in_order = x_NCHW.is_contiguous()
        pooled_NC = pool_NCHW.mean((2, 3)) if in_order else avg_pool2d(pool_NCHW, x_NCHW.shape[2:]).flatten(1)
        logit_NC = linear(linear(pooled_NC, reduce).relu_(), expand)
        logit_NK, index_NK = logit_NC.topk(min(self.k + 1, self.pool), 1)
        for logits in logit_NK.tolist():
            if len(set(logits)) < len(logits):  # a tie, whose order topk leaves open
                return self._select_any(x_NCHW)
        score_NK11 = logit_NK[:, : self.k, None, None].sigmoid_()
        if self.gain_K is not None:
            score_NK11.mul_(self.gain_K[:, None, None])
        return score_NK11, index_NK[:, : self.k]


class PointwiseConv(nn.Module):
    """A 1×1 convolution, over several images as a matrix product: with few channels much faster than oneDNN's."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight
        if conv.bias is None:
            self.register_buffer("bias", conv.weight.new_zeros(conv.out_channels))
        else:
            self.bias = conv.bias

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """As the convolution."""
        images, _, height, width = x_NCHW.shape
        if images == 1:
            return torch.conv2d(x_NCHW, self.weight, self.bias)
        weight = self.weight.flatten(1).expand(images, -1, -1)
        return torch.baddbmm(self.bias[:, None], weight, x_NCHW.flatten(2)).view(images, -1, height, width)


def _with_pointwise_products(conv_block: nn.Module) -> nn.Module:
    pointwise = {name: PointwiseConv(layer) for name, layer in conv_block.named_modules() if _is_small_pointwise(layer)}
    if "" in pointwise:
        return pointwise[""]
    swap_(conv_block, pointwise)
    return conv_block


def _is_small_pointwise(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
        and max(layer.in_channels, layer.out_channels) <= 64
    )


_FORMS = {"eager": EagerForm}


def lower(model: nn.Module, runtime: str = "eager", *, example: Tensor | None = None) -> nn.Module:
    """A copy of the model for inference in one runtime: batch norms folded, MoD blocks in the runtime's own form.

    It works for dense networks and controls too, so that all rows of a comparison are treated alike. A MoD block
    whose input is read again after it (a feature that the network returns, say), or which gets (N, H, W, C), keeps
    the copying form. Call the copy under `torch.inference_mode()`; for `torch.compile` take the model itself.

    Args:
        model: Any network. It stays as it is.
        runtime: `"eager"`.
        example: An input (N, C, H, W); `None` takes timm's input size or 224 pixels square.

    Returns:
        The copy, in evaluation mode, without gradients.

    Raises:
        ValueError: An unknown runtime, a wrapped model, or a network that does not run on the example.

    Example:
        >>> import cnnmod, timm, torch
        >>> model = cnnmod.convert_(timm.create_model("resnet18")).eval()
        >>> x_NCHW = torch.rand(1, 3, 224, 224)
        >>> with torch.inference_mode():
        ...     torch.allclose(lower(model)(x_NCHW), model(x_NCHW), atol=1e-4)
        True
    """
    if runtime not in _FORMS:
        raise ValueError(f"unknown runtime {runtime!r}; the runtimes are {', '.join(_FORMS)}")
    if isinstance(model, MoDBlock):
        raise ValueError("lower takes a network, not a MoD block alone")
    check_bare(model)
    model = copy.deepcopy(model).eval().requires_grad_(False)
    flow = trace_flow(model, example)
    for conv, norm in flow.conv_norms.items():
        _fold_(model, conv, norm)
    blocks = mod_blocks(model)
    lowered = [name for name, block in blocks.items() if name in flow.overwritable and block.layout == "NCHW"]
    swap_(model, {name: _FORMS[runtime](blocks[name]) for name in lowered})
    return model.eval()


def _fold_(model: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    after = dict(norm.named_children())
    if norm.running_mean is None or any(it._forward_hooks or it._forward_pre_hooks for it in (conv, norm)):
        return  # batch statistics; a weight that is computed before each call (pruning, weight norm), or any hook
    if not (type(norm) is nn.BatchNorm2d or set(after) == {"drop", "act"}):
        return  # a norm whose forward is not known to be a batch norm and these two
    rest = nn.Sequential(*after.values()) if after else nn.Identity()
    swap_(model, {conv_name: fuse_conv_bn_eval(conv, norm), norm_name: rest})

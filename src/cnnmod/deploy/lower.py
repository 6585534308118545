"""lower(model, runtime): a copy for inference, its MoD blocks in the form that this runtime runs fastest."""

import copy

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cnnmod.deploy.flow import trace_flow
from cnnmod.method.blocks import MoDBlock
from cnnmod.method.convert import mod_blocks, swap_
from cnnmod.method.functional import gather_channels


class EagerForm(nn.Module):
    """The MoD block for eager PyTorch: it adds the result to its input, in the input's memory.

    That spares a copy of the whole feature map, and is why it is for inference only.
    """

    def __init__(self, block: MoDBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) → the same tensor, changed."""
        block = self.block
        score_NK, index_NK = block.select(x_NCHW)
        y_NKHW = block.conv_block(gather_channels(x_NCHW, index_NK))
        if block.config.fuse_to == "original":
            if score_NK is not None:
                y_NKHW = y_NKHW * score_NK[:, :, None, None]
            return x_NCHW.scatter_add_(1, index_NK[:, :, None, None].expand_as(y_NKHW), y_NKHW)
        start = 0 if block.config.fuse_to == "first" else block.channels - block.k
        target_NKHW = x_NCHW[:, start : start + block.k]
        if score_NK is None:
            target_NKHW.add_(y_NKHW)
        else:
            target_NKHW.addcmul_(y_NKHW, score_NK[:, :, None, None])
        return x_NCHW


_FORMS = {"eager": EagerForm}


def lower(model: nn.Module, runtime: str = "eager", *, example: Tensor | None = None) -> nn.Module:
    """A copy of the model for inference in one runtime: batch norms folded, MoD blocks in the runtime's own form.

    It works for dense networks and controls too, so that all rows of a comparison are treated alike. A MoD block
    whose input is read again after it (a feature that the network returns, say) keeps the copying form.

    Args:
        model: Any network. It stays as it is.
        runtime: `"eager"`.
        example: An input (N, C, H, W); `None` takes timm's input size or 224 pixels square.

    Returns:
        The copy, in evaluation mode, without gradients.

    Raises:
        ValueError: An unknown runtime, or a network that does not run on the example.

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
    model = copy.deepcopy(model).eval().requires_grad_(False)
    flow = trace_flow(model, example)
    for conv, norm in flow.conv_norms.items():
        _fold_(model, conv, norm)
    blocks = mod_blocks(model)
    swap_(model, {name: _FORMS[runtime](block) for name, block in blocks.items() if name in flow.overwritable})
    return model


def _fold_(model: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
    after = dict(norm.named_children())
    if norm.running_mean is None or not (type(norm) is nn.BatchNorm2d or set(after) == {"drop", "act"}):
        return  # batch statistics, or a norm whose forward is not known to be a batch norm and these two
    swap_(model, {conv_name: fuse_conv_bn_eval(conv, norm), norm_name: nn.Sequential(*after.values())})

"""lower(model, runtime): a copy for inference, its MoD blocks in the form that this runtime runs fastest."""

import copy

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cnnmod.deploy.flow import Flow, trace_flow
from cnnmod.deploy.forms import EagerForm, GraphForm, OnnxForm
from cnnmod.deploy.fused import FusedForm, can_fuse
from cnnmod.deploy.triton_form import TritonForm, can_launch
from cnnmod.method.bare import check_bare
from cnnmod.method.blocks import MoDBlock
from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import mod_blocks, swap_

FORMS: dict[str, type[EagerForm] | type[GraphForm]] = {
    "eager": EagerForm,
    "compile": FusedForm,
    "onnxruntime": OnnxForm,
    "openvino": OnnxForm,
    "pt2": GraphForm,
}


def lower(model: nn.Module, runtime: str = "eager", *, example: Tensor | None = None) -> nn.Module:
    """A copy of the model for inference in one runtime: batch norms folded, MoD blocks in the runtime's own form.

    It works for dense networks and controls too, so that all rows of a comparison are treated alike. In eager PyTorch
    a MoD block whose input is read again after it (a feature that the network returns, say), or which gets
    (N, H, W, C), keeps the copying form; for torch.compile, so does one that cannot be one operator. Lower a network on
    the device where it will run: the form for a GPU is taken where the weights are on one. Call the copy under
    `torch.inference_mode()`; `torch.compile` takes the copy for `"compile"`, and `export` makes its own.

    Args:
        model: Any network. It stays as it is.
        runtime: `"eager"`, `"compile"`, `"onnxruntime"`, `"openvino"` or `"pt2"` (torch.export).
        example: An input (N, C, H, W); `None` takes timm's input size or 224 pixels square.

    Returns:
        The copy, in evaluation mode, without gradients.

    Raises:
        ValueError: An unknown runtime, a wrapped model, or a network that does not run on the example.

    Examples:
        >>> import cnnmod, timm, torch
        >>> model = cnnmod.convert_(timm.create_model("resnet18")).eval()
        >>> x_NCHW = torch.rand(1, 3, 224, 224)
        >>> with torch.inference_mode():
        ...     torch.allclose(lower(model)(x_NCHW), model(x_NCHW), atol=1e-4)
        True
    """
    if runtime not in FORMS:
        raise ValueError(f"unknown runtime {runtime!r}; the runtimes are {', '.join(FORMS)}")
    if isinstance(model, MoDBlock):
        raise ValueError("lower takes a network, not a MoD block alone")
    check_bare(model)
    model, flow = fold(model, example)
    form = FORMS[runtime]
    blocks = {name: block for name, block in mod_blocks(model).items() if _is_known(block.config)}
    if issubclass(form, EagerForm):
        blocks = {n: block for n, block in blocks.items() if n in flow.overwritable and block.layout == "NCHW"}
    if form is FusedForm:
        blocks = {n: block for n, block in blocks.items() if can_fuse(block)}
    swap_(model, {name: _best(form, block)(block) for name, block in blocks.items()})
    return model.eval()


def fold(model: nn.Module, example: Tensor | None = None) -> tuple[nn.Module, Flow]:
    """A copy for inference with batch norms folded, MoD blocks as in training, and what its layers may do."""
    model = copy.deepcopy(without_auxiliary_head(model)).eval().requires_grad_(False)
    flow = trace_flow(model, example)
    for conv, norm in flow.conv_norms.items():
        _fold_(model, conv, norm)
    return model.eval(), flow


def without_auxiliary_head(model: nn.Module) -> nn.Module:
    """The network; or, of torchvision's segmentation networks, one of the same layers but the head that training alone
    needs."""
    if not isinstance(getattr(model, "aux_classifier", None), nn.Module):
        return model
    bare = copy.copy(model)
    bare._modules = {**model._modules, "aux_classifier": None}
    return bare


def _is_known(config: MoDConfig) -> bool:
    """Whether the forms compute what this config says; else the training form stays."""
    return config.select != "slots" and config.scale == "output" and config.fuse_to != "all"


def _best(form: type[EagerForm] | type[GraphForm], block: MoDBlock) -> type[EagerForm] | type[GraphForm]:
    if form is not EagerForm:
        return form
    if can_launch(block):
        return TritonForm
    return FusedForm if can_fuse(block) else EagerForm


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

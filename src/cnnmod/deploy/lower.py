"""lower(model, runtime): a copy for inference, its MoD blocks in the form that the runtime runs fastest."""

import copy

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cnnmod.deploy.flow import foldable_norms
from cnnmod.deploy.live import is_plain
from cnnmod.deploy.targets.table import find_target
from cnnmod.method.bare import check_bare
from cnnmod.method.blocks import MoDBlock
from cnnmod.method.convert import mod_blocks, swap_

_TIMMS_NORM = ("timm.layers.norm_act", "BatchNormAct2d")  # a batch norm, then its children drop and act


def lower(model: nn.Module, runtime: str = "eager", *, example: Tensor | None = None) -> nn.Module:
    """A copy of the model for inference in one runtime: batch norms folded, MoD blocks in the runtime's own form.

    It works for dense networks and controls too, so that all rows of a comparison are treated alike. A MoD block
    keeps the training form where the runtime has none for it: in eager PyTorch if it gets (N, H, W, C), for
    torch.compile if it cannot be one operator. Batch norms are folded where the network's own code shows that nothing
    else reads the convolution. Lower a network on the device where it will run: the form for a GPU is taken where the
    weights are on one. Call the copy under `torch.inference_mode()`; `torch.compile` takes the copy for `"compile"`,
    and `export` makes its own.

    The copy computes with the weights that it has when it is called: load a state dict into it, move it, put hooks on
    it, pickle it and send it to another process, as with any module. The weights of folded norms are in their
    convolutions. Where PyTorch is eager, a MoD block in an `nn.Sequential` overwrites its input if it finds, at each
    call, that nobody else holds it.

    Args:
        model: Any network. It stays as it is.
        runtime: The name of a target: `"eager"`, `"compile"`, `"onnxruntime"`, `"openvino"`, `"pt2"` (torch.export), or
            one that was registered.
        example: An input (N, C, H, W); `None` takes timm's input size or 224 pixels square.

    Returns:
        The copy, in evaluation mode, without gradients.

    Raises:
        ValueError: An unknown runtime, a wrapped model, a network that does not run on the example, or one that keeps a
            tensor of a training step, which torch cannot copy.

    Examples:
        >>> import cnnmod, timm, torch
        >>> model = cnnmod.convert_(timm.create_model("resnet18")).eval()
        >>> x_NCHW = torch.rand(1, 3, 224, 224)
        >>> with torch.inference_mode():
        ...     torch.allclose(lower(model)(x_NCHW), model(x_NCHW), atol=1e-4)
        True
    """
    target = find_target(runtime)
    if isinstance(model, MoDBlock):
        raise ValueError("lower takes a network, not a MoD block alone")
    check_bare(model)
    model, _ = fold(model, example)
    forms: dict[str, nn.Module] = {}
    for name, block in mod_blocks(model).items():  # a block that no form accepts stays in the training form
        form = next((form for form in target.forms if type(block) is form or form.accepts(block)), None)
        if form is not None and type(block) is not form:
            forms[name] = form(block)
    swap_(model, forms)
    target.finish_(model)
    return model.eval()


def fold(model: nn.Module, example: Tensor | None = None) -> tuple[nn.Module, dict[str, str]]:
    """A copy for inference with batch norms folded, MoD blocks as in training; and which norms those were."""
    model = _copied(without_auxiliary_head(model)).eval().requires_grad_(False)
    norms = foldable_norms(model, example)
    for conv, norm in norms.items():
        _fold_(model, conv, norm)
    return model.eval(), norms


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever foreign objects raise; torch: a tensor that is no leaf of its autograd graph
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{_what_cannot_be_copied(model)} cannot be copied: {reason}. If a training step left a tensor there, run "
            "the network once under torch.no_grad() or delete it; if it is a pruned weight, call "
            "torch.nn.utils.prune.remove"
        ) from error


def _what_cannot_be_copied(model: nn.Module) -> str:
    for name, module in model.named_modules():
        attributes = {key: value for key, value in vars(module).items() if key not in ("_modules", "_buffers")}
        for attribute, value in (attributes | module._buffers).items():
            try:
                copy.deepcopy(value)
            except Exception:
                return f"{name}.{attribute}" if name else attribute
    return type(model).__name__


def without_auxiliary_head(model: nn.Module) -> nn.Module:
    """The network; or, of torchvision's segmentation networks, one of the same layers but the head that training alone
    needs."""
    if not isinstance(getattr(model, "aux_classifier", None), nn.Module):
        return model
    bare = copy.copy(model)
    bare._modules = {**model._modules, "aux_classifier": None}
    return bare


def _fold_(model: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    after = dict(norm.named_children())
    if norm.running_mean is None or not all(map(is_plain, (conv, norm))):
        return  # batch statistics; a weight that is computed before each call (pruning, weight norm), or any hook
    if type(norm) is not nn.BatchNorm2d and (type(norm).__module__, type(norm).__name__) != _TIMMS_NORM:
        return  # a norm whose forward is not known to be a batch norm and these two
    rest = nn.Sequential(*after.values()) if after else nn.Identity()
    swap_(model, {conv_name: fuse_conv_bn_eval(conv, norm), norm_name: rest})

"""`lower(model, runtime)`: a copy for inference whose MoD blocks have the form that is fastest in the runtime."""

import copy

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cnnmod.deploy.flow import foldable_norms
from cnnmod.deploy.live import is_plain
from cnnmod.deploy.targets.table import find_target
from cnnmod.method.blocks import MoDBlock
from cnnmod.method.convert import mod_blocks, swap_
from cnnmod.method.copying import copied
from cnnmod.method.unwrapped import check_unwrapped

_TIMMS_NORM = ("timm.layers.norm_act", "BatchNormAct2d")  # a batch norm, followed by its children drop and act


def lower(model: nn.Module, runtime: str = "eager", *, example: Tensor | None = None) -> nn.Module:
    """Return a copy of the model for inference in one runtime.

    Batch norms are folded into convolutions, and MoD blocks are replaced by the fastest form that the runtime supports.
    Dense networks and controls are lowered in the same way, so that all rows of a comparison are treated alike.

    A MoD block keeps the training form if the runtime has no form for it. This is the case in eager PyTorch if the
    block takes (N, H, W, C), and in torch.compile if the block cannot run as one operator. A batch norm is folded if
    the network's code shows that nothing else reads the output of the convolution.

    Lower a network on the device where it will run. The form for a GPU is selected only if the weights are on a GPU.
    Call the copy under `torch.inference_mode()`. For `torch.compile`, lower to `"compile"` and compile the copy.
    `export` and `cnnmod.deploy.start` lower the network themselves.

    The copy is an ordinary module. You can load a state dict into it, move it to another device, register hooks, pickle
    it, and send it to another process. It always uses its current weights. The weights of a folded norm are part of
    its convolution. In eager PyTorch, a MoD block in an `nn.Sequential` overwrites its input if nothing else holds a
    reference to it. This is checked at each call.

    Args:
        model: Any network. It is not changed.
        runtime: The name of a target: `"eager"`, `"compile"`, `"cudagraph"`, `"onnxruntime"`, `"openvino"`, `"pt2"`
            (torch.export), or a registered target.
        example: An input (N, C, H, W). `None` uses timm's input size, or 224 × 224 pixels.

    Returns:
        The copy, in evaluation mode, without gradients.

    Raises:
        ValueError: If the runtime is unknown, the model is wrapped, the network does not run on the example, or the
            network holds a tensor of a training step, which torch cannot copy.

    Examples:
        >>> import cnnmod, timm, torch
        >>> model = cnnmod.convert_(timm.create_model("resnet18")).eval()
        >>> x_NCHW = torch.rand(1, 3, 64, 64)
        >>> with torch.inference_mode():
        ...     torch.allclose(lower(model)(x_NCHW), model(x_NCHW), atol=1e-4)
        True
    """
    target = find_target(runtime)
    if isinstance(model, MoDBlock):
        raise ValueError("lower takes a network, not a single MoD block")
    check_unwrapped(model)
    model = fold(model, example)
    forms: dict[str, nn.Module] = {}
    for name, block in mod_blocks(model).items():  # a block that no form accepts keeps the training form
        form = next((form for form in target.forms if type(block) is form or form.accepts(block)), None)
        if form is not None and type(block) is not form:
            forms[name] = form(block)
    swap_(model, forms)
    target.finish_(model)
    return model.eval()


def fold(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """Return a copy with folded batch norms and with MoD blocks in the training form."""
    model = copied(without_auxiliary_head(model)).eval().requires_grad_(False)
    for conv, norm in foldable_norms(model, example).items():
        _fold_(model, conv, norm)
    return model.eval()


def without_auxiliary_head(model: nn.Module) -> nn.Module:
    """Return the network without the auxiliary head of torchvision's segmentation networks.

    Only training needs this head. The returned network shares all other layers.
    """
    if not isinstance(getattr(model, "aux_classifier", None), nn.Module):
        return model
    bare = copy.copy(model)
    bare._modules = {**model._modules, "aux_classifier": None}
    return bare


def _fold_(model: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    children = dict(norm.named_children())
    if norm.running_mean is None or not all(map(is_plain, (conv, norm))):
        return  # it uses batch statistics, computes a weight before each call (pruning, weight norm), or has a hook
    if type(norm) is not nn.BatchNorm2d and (type(norm).__module__, type(norm).__name__) != _TIMMS_NORM:
        return  # its forward may compute more than a batch norm and its children
    rest = nn.Sequential(*children.values()) if children else nn.Identity()
    swap_(model, {conv_name: fuse_conv_bn_eval(conv, norm), norm_name: rest})

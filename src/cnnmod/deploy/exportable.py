"""Why a network cannot be exported: the innermost layer that an exporter does not take."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.method.restore import restored


def not_exportable(model: nn.Module, example: Tensor, error: Exception) -> ValueError:
    """An error that names the innermost layer that torch.export does not take alone, and why; or the number of images
    that the network fixes.

    Raises:
        ValueError: The error itself, if the network does not even run on the example.
    """
    if "Constraints violated (batch)" in _reason(error):
        return ValueError(
            f"{type(model).__name__} does not take any number of images: torch.export finds that it fixes the batch; "
            "export it with dynamic_batch=False (--batch on the command line)"
        )
    inputs: dict[nn.Module, tuple[Any, Any]] = {}

    def note(layer: nn.Module, args: Any, kwargs: Any) -> None:
        inputs[layer] = (args, kwargs)

    layer, where = copy.deepcopy(model).eval(), type(model).__name__
    hooks = [one.register_forward_pre_hook(note, with_kwargs=True) for one in layer.modules()]
    try:
        with torch.no_grad():
            layer(example)
    except Exception:  # it does not even run: the first error says so
        raise error from None
    for hook in hooks:
        hook.remove()
    inside = True
    while inside:
        inside = False
        for name, child in layer.named_children():
            if child in inputs and (found := _fails(child, *inputs[child])) is not None:
                layer, where, error, inside = child, f"{where}.{name}", found, True
                break
    return ValueError(f"the network cannot be exported: {where} ({type(layer).__name__}): {_reason(error)}")


def _reason(error: BaseException) -> str:
    """The first line of what torch's exporters say; that of ONNX wraps it in advice."""
    while type(error).__module__.startswith("torch.onnx") and error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _fails(layer: nn.Module, args: Any, kwargs: Any) -> Exception | None:
    try:
        with torch.no_grad(), restored(layer, weights=False):
            torch.export.export(layer, args, kwargs)
    except Exception as error:  # whatever it is, it is what is looked for
        return error
    return None

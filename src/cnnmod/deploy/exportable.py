"""Find the innermost layer of a network that cannot be exported, and the reason."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.method.restore import restored
from cnnmod.records.errors import first_line


def not_exportable(model: nn.Module, example: Tensor, error: Exception) -> ValueError:
    """Return an error that names the innermost layer that torch.export cannot export, and the reason.

    If the network fixes the batch size, the error says so.

    Args:
        model: The network.
        example: Images (N, C, H, W).
        error: The error that the exporter raised.

    Raises:
        Exception: The error itself, if the network does not run on the example.
    """
    if "Constraints violated (batch)" in _reason(error):
        return ValueError(
            f"{type(model).__name__} does not support a dynamic batch: torch.export finds a fixed batch size; "
            "export it with dynamic_batch=False (--batch on the command line)"
        )
    inputs: dict[nn.Module, tuple[Any, Any]] = {}

    def record_inputs(layer: nn.Module, args: Any, kwargs: Any) -> None:
        inputs[layer] = (args, kwargs)

    layer, path = copy.deepcopy(model).eval(), type(model).__name__
    hooks = [module.register_forward_pre_hook(record_inputs, with_kwargs=True) for module in layer.modules()]
    try:
        with torch.no_grad():
            layer(example)
    except Exception:  # the network does not run, so the error of the exporter is raised
        raise error from None
    for hook in hooks:
        hook.remove()
    descend = True
    while descend:
        descend = False
        for name, child in layer.named_children():
            if child in inputs and (child_error := _export_error(child, *inputs[child])) is not None:
                layer, path, error, descend = child, f"{path}.{name}", child_error, True
                break
    return ValueError(f"the network cannot be exported: {path} ({type(layer).__name__}): {_reason(error)}")


def _reason(error: BaseException) -> str:
    """Return the first line of the exporter's error. The ONNX exporter wraps the error in an error with advice."""
    while type(error).__module__.startswith("torch.onnx") and error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _export_error(layer: nn.Module, args: Any, kwargs: Any) -> Exception | None:
    with torch.no_grad(), restored(layer, weights=False):
        try:
            torch.export.export(layer, args, kwargs)
        except Exception as error:  # an exporter can raise anything
            return error
    return None

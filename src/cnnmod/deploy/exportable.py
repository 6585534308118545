"""Why a network cannot be exported: the innermost layer that an exporter does not take."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def not_exportable(model: nn.Module, example: Tensor, error: Exception) -> ValueError:
    """An error that names the innermost layer that torch.export does not take alone, and why.

    Raises:
        ValueError: The error itself, if the network does not even run on the example.
    """
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
    reason = str(error).strip().splitlines()[0]
    return ValueError(f"the network cannot be exported: {where} ({type(layer).__name__}): {reason}")


def _fails(layer: nn.Module, args: Any, kwargs: Any) -> Exception | None:
    try:
        with torch.no_grad():
            torch.export.export(layer, args, kwargs)
    except Exception as error:  # whatever it is, it is what is looked for
        return error
    return None

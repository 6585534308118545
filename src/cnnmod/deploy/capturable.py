"""Find operators that make the CPU wait for values on the GPU.

A pass that has such an operator cannot be captured as a CUDA graph.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def check_capturable(network: nn.Module, images_NCHW: Tensor) -> None:
    """Run one pass, and raise an error at the first operator that needs values of a tensor on the images' device.

    Such operators return a number (`item`), have a result whose shape depends on values (`nonzero`), or copy between
    devices. On a GPU, they would stop a capture and leave torch in an undefined state.

    Raises:
        ValueError: If there is such an operator. The error names it and the layer that calls it.

    Examples:
        >>> check_capturable(nn.Conv2d(1, 1, 1), torch.rand(1, 1, 2, 2))
        >>> check_capturable(nn.ReLU(), torch.rand(1, 1, 2, 2))
    """
    with torch.inference_mode(False), torch.no_grad():  # in inference mode, torch does not decompose some operators
        images_NCHW = images_NCHW.clone()
        with _NoWaiting(network, images_NCHW.device):
            network(images_NCHW)


class _NoWaiting(TorchDispatchMode):
    """Raise an error at each operator that makes the CPU wait for the device."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self._layers = {id(layer): name for name, layer in network.named_modules()}
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value.device for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if self._device in given and _reads_values(func, args):
            self._refuse(func, "needs values to continue")
        result = func(*args, **(kwargs or {}))
        if func in _COPIES and len(devices := {*given, result.device}) > 1 and self._device in devices:
            self._refuse(func, f"copies between {' and '.join(sorted(map(str, devices)))}")
        return result

    def _refuse(self, func: Any, reason: str) -> None:
        layer = self._calling_layer()
        by = f"{layer!r} calls" if layer else "the network calls"
        raise ValueError(
            f"this network cannot be captured as a CUDA graph: {by} {func.name()}, which {reason}; use the runtime "
            "'eager' or 'compile'"
        )

    def _calling_layer(self) -> str | None:
        frame = sys._getframe(1)
        while frame is not None:
            layer = frame.f_locals.get("self")
            if isinstance(layer, nn.Module) and id(layer) in self._layers:
                return self._layers[id(layer)]
            frame = frame.f_back
        return None


def _reads_values(func: Any, args: Any) -> bool:
    if func is torch.ops.aten.index.Tensor:  # it has the tag for all indices
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return not _TAGS.isdisjoint(func.tags)

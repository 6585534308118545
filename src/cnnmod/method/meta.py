"""Operators on the meta device, where tensors have shapes but no values."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, layer_norm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class SkipNorms(TorchFunctionMode):
    """Skip batch and layer norms, whose output has the shape of their input.

    On the meta device, torch decomposes norms in Python, which takes half of the time of a pass.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is batch_norm and not kwargs.get("training", args[5] if len(args) > 5 else False):
            fits = args[1] is not None and args[1].numel() == args[0].shape[1]
        else:
            fits = func is layer_norm and tuple(args[1]) == tuple(args[0].shape[-len(args[1]) :])
        return torch.empty_like(args[0]) if fits and args[0].is_meta else func(*args, **kwargs)


class OneElementResults(TorchDispatchMode):
    """Make operators whose output size depends on values return one element.

    The forward pass of a detector then continues with one box.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (args and isinstance(args[0], Tensor) and args[0].is_meta):
            return func(*args, **(kwargs or {}))
        if func is torch.ops.aten.nonzero.default:
            return _one_index(args[0], args[0].ndim)
        if func is torch.ops.aten.index.Tensor:
            indices: list[Tensor | None] = []
            for index in args[1]:
                if index is not None and index.dtype == torch.bool:
                    indices += [_one_index(index)] * index.ndim
                else:
                    indices.append(index)
            return func(args[0], indices)
        if str(func) == "torchvision.nms.default":
            return _one_index(args[0])
        return func(*args, **(kwargs or {}))


def _one_index(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty((1, *shape), dtype=torch.long)

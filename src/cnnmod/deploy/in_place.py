"""Where a MoD block may overwrite its input: where nobody else can read that memory."""

from sys import getrefcount

import torch
from torch import Tensor, nn

from cnnmod.deploy.forms import EagerForm


class InPlaceSequential(nn.Sequential):
    """An `nn.Sequential` whose MoD blocks overwrite what the layer before them returned, if nobody else holds it.

    Between two of its layers the only reference to that tensor is a variable of this forward. If there is no other one,
    to the tensor or to its memory, then the memory is about to be freed, and nobody can see that it is overwritten.
    This is seen at each call, whatever the size, batch and memory format, and whatever hooks there are.
    """

    def forward(self, input):  # noqa: A002  nn.Sequential's name
        """As `nn.Sequential`."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().forward(input)  # a graph, which must be right for other tensors too
        for layer in self._modules.values():
            # The count is taken here since a function to take it in would hold one more reference.
            if isinstance(layer, EagerForm) and getrefcount(input) == _ALONE and _is_private(input):
                input = layer.overwrite(input) if layer.may_overwrite() else layer(input)  # noqa: A001
            else:
                input = layer(input)  # noqa: A001
        return input


def overwrite_in_sequences_(model: nn.Module) -> None:
    """Let MoD blocks in the model's plain `nn.Sequential`s overwrite their input where it is safe."""
    for module in model.modules():
        if type(module) is nn.Sequential and any(isinstance(layer, EagerForm) for layer in module):
            module.__class__ = InPlaceSequential  # which keeps its hooks and attributes


def _is_private(x: Tensor) -> bool:
    """Whether a tensor that has no other reference is the only one in its memory, and that is torch's own."""
    if type(x) is not Tensor or not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        return False  # a subclass may wrap other tensors; expanded memory holds one value for many
    if x.is_inference() and not torch.is_inference_mode_enabled():
        return False  # torch does not allow to change it
    storage = x.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) == _ALONE_IN_MEMORY and storage.resizable()  # not NumPy's


def _references_of_one_variable() -> int:
    value = object()
    return getrefcount(value)


def _users_of_one_tensor() -> int:
    value = torch.empty(1)
    storage = value.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata)


_ALONE, _ALONE_IN_MEMORY = _references_of_one_variable(), _users_of_one_tensor()

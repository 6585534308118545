"""Let a MoD block overwrite its input if nothing else can read this memory.

This is checked at each call, so it is valid for all sizes, batch sizes, memory formats and hooks. If one variable holds
the only reference to a tensor and is not read again, the memory is about to be freed and can be overwritten.
"""

from sys import getrefcount

import torch
import torch.fx
from torch import Tensor, nn

from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.live import is_dense


def allow_overwriting_(model: nn.Module) -> None:
    """Let MoD blocks overwrite their input if a plain `nn.Sequential` or a `torch.fx.GraphModule` calls them.

    Such callers do not read the variable that holds the input again. An example is torchvision's feature extractor.
    """
    for module in list(model.modules()):
        if type(module) is nn.Sequential and any(isinstance(layer, EagerForm) for layer in module):
            module.__class__ = InPlaceSequential  # this keeps its hooks and attributes
        elif isinstance(module, torch.fx.GraphModule):
            _overwrite_in_graph_(module)


class InPlaceSequential(nn.Sequential):
    """An `nn.Sequential` whose MoD blocks overwrite the output of the previous layer if nothing else holds it."""

    def forward(self, input):
        """See `nn.Sequential`."""
        if _is_tracing():
            return super().forward(input)
        for layer in self._modules.values():
            # The references are counted here, since a function would hold one more reference.
            if (
                isinstance(layer, EagerForm)
                and getrefcount(input) == _REFERENCES_OF_VARIABLE
                and _may_overwrite(layer, input)
            ):
                input = layer.overwrite(input)
            else:
                input = layer(input)
        return input


def _overwrite_in_graph_(module: torch.fx.GraphModule) -> None:
    graph = module.graph
    for node in graph.find_nodes(op="call_module"):
        block = module.get_submodule(str(node.target))
        is_read_once = [[*value.users] for value in node.all_input_nodes] == [[node]]
        if isinstance(block, EagerForm) and is_read_once and len(node.args) == 1 and not node.kwargs:
            with graph.inserting_before(node):
                call = graph.call_function(call_with_unused_input, (graph.get_attr(str(node.target)), node.args[0]))
            node.replace_all_uses_with(call)
            graph.erase_node(node)
            module.recompile()


def call_with_unused_input(block: EagerForm, x_NCHW: Tensor) -> Tensor:
    """Call a block with a tensor that the caller holds in one variable and does not read again."""
    if _is_tracing() or getrefcount(x_NCHW) != _REFERENCES_OF_ARGUMENT or not _may_overwrite(block, x_NCHW):
        return block(x_NCHW)
    return block.overwrite(x_NCHW)


def _is_tracing() -> bool:
    """Return whether torch.compile or torch.jit.trace runs the code. The result must be valid for other tensors."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def _may_overwrite(block: EagerForm, x: Tensor) -> bool:
    """Return whether the block may overwrite a tensor without other references.

    The memory of the tensor must not be shared, and no hook may see the tensor.
    """
    if type(x) is not Tensor or not is_dense(x):
        return False  # a subclass may wrap other tensors, and an expanded tensor has one value in several places
    if x.is_inference() and not torch.is_inference_mode_enabled():
        return False  # torch raises if it is changed
    if _references_to_memory(x) != _REFERENCES_OF_MEMORY or not x.untyped_storage().resizable():
        return False  # memory that is not resizable belongs to something else, such as NumPy
    return block.may_overwrite()


def _references_to_memory(x: Tensor) -> tuple[int, int]:
    """Return the number of references from Python and from tensors."""
    storage = x.untyped_storage()
    return getrefcount(storage), torch._C._storage_Use_Count(storage._cdata)


def _references_of_a_variable() -> int:
    value = object()
    return getrefcount(value)


def _references_of_an_argument() -> int:
    value = object()
    return _references_of(value)


def _references_of(value: object) -> int:
    return getrefcount(value)


# These are measured, since the reference counts of a variable differ between versions of Python.
_REFERENCES_OF_VARIABLE, _REFERENCES_OF_ARGUMENT = _references_of_a_variable(), _references_of_an_argument()
_REFERENCES_OF_MEMORY = _references_to_memory(torch.empty(1))

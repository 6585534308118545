"""Where a MoD block may overwrite its input: where nobody else can read that memory.

That is seen at each call, whatever the size, batch and memory format, and whatever hooks there are. If the only
reference to a tensor is one variable that is not read again, then its memory is about to be freed, and nobody can see
that it is overwritten.
"""

from sys import getrefcount

import torch
import torch.fx
from torch import Tensor, nn

from cnnmod.deploy.forms import EagerForm


def overwrite_where_nobody_reads_(model: nn.Module) -> None:
    """Let MoD blocks overwrite their input where they are called by plain `nn.Sequential`s or by the code of a graph
    (torchvision's feature extractors): there it is known that the variable that holds it is not read again."""
    for module in list(model.modules()):
        if type(module) is nn.Sequential and any(isinstance(layer, EagerForm) for layer in module):
            module.__class__ = InPlaceSequential  # which keeps its hooks and attributes
        elif isinstance(module, torch.fx.GraphModule):
            _overwrite_in_graph_(module)


class InPlaceSequential(nn.Sequential):
    """An `nn.Sequential` whose MoD blocks overwrite what the layer before them returned, if nobody else holds it."""

    def forward(self, input):  # noqa: A002  nn.Sequential's name
        """As `nn.Sequential`."""
        if _makes_a_graph():
            return super().forward(input)
        for layer in self._modules.values():
            # The count is taken here since a function to take it in would hold one more reference.
            if isinstance(layer, EagerForm) and getrefcount(input) == _ALONE and _may_overwrite(layer, input):
                input = layer.overwrite(input)  # noqa: A001
            else:
                input = layer(input)  # noqa: A001
        return input


def _overwrite_in_graph_(module: torch.fx.GraphModule) -> None:
    graph = module.graph
    for node in graph.find_nodes(op="call_module"):
        block = module.get_submodule(str(node.target))
        is_read_once = [[*value.users] for value in node.all_input_nodes] == [[node]]
        if isinstance(block, EagerForm) and is_read_once and len(node.args) == 1 and not node.kwargs:
            with graph.inserting_before(node):
                call = graph.call_function(call_for_the_last_time, (graph.get_attr(str(node.target)), node.args[0]))
            node.replace_all_uses_with(call)
            graph.erase_node(node)
            module.recompile()


def call_for_the_last_time(block: EagerForm, x_NCHW: Tensor) -> Tensor:
    """Call a block with what its caller holds in one variable, and does not read again."""
    if _makes_a_graph() or getrefcount(x_NCHW) != _ALONE_AS_ARGUMENT or not _may_overwrite(block, x_NCHW):
        return block(x_NCHW)
    return block.overwrite(x_NCHW)


def _makes_a_graph() -> bool:
    """Whether this is torch.compile's call or a tracer's, which must be right for other tensors too."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def _may_overwrite(block: EagerForm, x: Tensor) -> bool:
    """Whether the block may overwrite a tensor that has no other reference: nothing shares its memory, and no hook sees
    it."""
    if type(x) is not Tensor or not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        return False  # a subclass may wrap other tensors; expanded memory holds one value for many
    if x.is_inference() and not torch.is_inference_mode_enabled():
        return False  # torch does not allow to change it
    if _references_to_memory(x) != _ALONE_IN_MEMORY or not x.untyped_storage().resizable():
        return False  # what is not resizable belongs to NumPy, say
    return block.may_overwrite()


def _references_to_memory(x: Tensor) -> tuple[int, int]:
    """From Python, and from tensors."""
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


# Measured, since how often Python counts a variable differs between its versions.
_ALONE, _ALONE_AS_ARGUMENT = _references_of_a_variable(), _references_of_an_argument()
_ALONE_IN_MEMORY = _references_to_memory(torch.empty(1))

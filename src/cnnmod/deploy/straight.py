"""Trace a forward pass with torch.fx if its graph is the same for all inputs.

A forward pass that branches on a property of a tensor is refused. torch.fx alone does not detect all such branches.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import ref

import torch
import torch.fx
from torch import Tensor, nn

from cnnmod.deploy.live import is_plain


class BranchError(BaseException):
    """A forward pass branches on a tensor. It is not an `Exception`, so that a forward pass does not catch it."""


class StraightTracer(torch.fx.Tracer):
    """Traces a module, and the modules inside of it that have no branches, into one graph.

    Torch's own layers, layers of the classes `leaves`, modules with hooks and modules whose forward pass has branches
    are `call_module` nodes in the graph. Hooks are not called.

    Args:
        leaves: Classes of other layers that are not traced.
        whole: Whether the module is refused if a module inside of it is refused.

    Attributes:
        opaque: The names of the modules inside that have branches or hooks.
    """

    proxy_buffer_attributes = True  # reads of buffers are nodes in the graph, like reads of parameters

    def __init__(self, leaves: tuple[type[nn.Module], ...] = (), *, whole: bool = False) -> None:
        super().__init__()
        self.leaves, self.whole = leaves, whole
        self.opaque: list[str] = []
        self._values: dict[torch.fx.Node, Callable[[], Any]] = {}

    def trace_straight(self, module: nn.Module, arguments: Mapping[str, Any] | None = None) -> torch.fx.Graph | None:
        """Return the module's graph with constant `arguments`, or `None` if its own forward pass has branches."""
        if "forward" in vars(module):
            return None  # torch.fx traces the forward of the class
        try:
            return self.trace(module, dict(arguments) if arguments else None)
        except (Exception, BranchError):  # a foreign forward can raise anything if it gets no tensors
            return None

    def is_kept(self, node: torch.fx.Node) -> bool:
        """Return whether the value is still held after the forward pass, for example in an attribute or a list."""
        value = self._values.get(node)
        return value is not None and value() is not None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is one of torch's own layers or of a class of `leaves`."""
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace a module, or add one node for it."""
        name = self.path_of_module(m)
        if self.is_leaf_module(m, name):
            return self.create_proxy("call_module", name, args, kwargs)
        last = next(iter(reversed(self.graph.nodes)))
        if is_plain(m):
            try:
                return m.forward(*args, **kwargs)  # the parameter `forward` would call the hooks
            except (Exception, BranchError):  # a foreign forward can raise anything if it gets no tensors
                if self.whole:
                    raise
        elif self.whole:
            raise BranchError
        while (node := next(iter(reversed(self.graph.nodes)))) is not last:
            self.graph.erase_node(node)
        self.opaque.append(name)
        return self.create_proxy("call_module", name, args, kwargs)

    def proxy(self, node: torch.fx.Node) -> "_Value":
        """Return the proxy of a value."""
        value = _Value(node, self)
        self._values[node] = ref(value)
        return value

    def to_bool(self, obj: Any) -> bool:
        """Raise an error for `if x:`."""
        raise BranchError

    def iter(self, obj: Any) -> Iterator[Any]:
        """Raise an error for `for y in x:`."""
        raise BranchError

    def keys(self, obj: Any) -> Any:
        """Raise an error for `**x`."""
        raise BranchError


class _Value(torch.fx.Proxy):
    """A proxy that raises an error if its class, its length or an attribute that tensors do not have is read."""

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]  cannot be assigned
        if _is_read_by_model():
            raise BranchError
        return _Value

    def __getattr__(self, k: str) -> Any:
        if not hasattr(Tensor, k) and _is_read_by_model():
            raise BranchError
        return super().__getattr__(k)

    def _branch(self, *_: object) -> Any:
        raise BranchError

    __len__ = __contains__ = __int__ = __float__ = __index__ = _branch


def _is_read_by_model() -> bool:
    name = sys._getframe(2).f_globals.get("__name__", "")
    return not name.startswith("torch.")  # torch.is_tensor, which a model may call, is in the module `torch`

"""A forward as a graph by torch.fx, if it is the same graph for all inputs: a forward that asks a tensor for something
and goes another way then is refused. torch.fx itself overlooks some of these questions."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import ref

import torch
import torch.fx
from torch import Tensor, nn

from cnnmod.deploy.live import is_plain


class BranchError(BaseException):
    """A forward asked a tensor. A forward may catch any `Exception`, and go another way then; this one it does not."""


class StraightTracer(torch.fx.Tracer):
    """Traces a module, and the modules inside that have no branches, into one graph.

    Left in it as a `call_module` are torch's own layers, those of `leaves`, modules with hooks and modules whose
    forward has branches. Hooks are not called.

    Args:
        leaves: Classes of further layers that are not looked into.
        whole: Refuse the module if any module inside has to be refused.

    Attributes:
        opaque: The names of the modules that have branches or hooks.
    """

    proxy_buffer_attributes = True  # who reads a buffer is in the graph, as who reads a parameter

    def __init__(self, leaves: tuple[type[nn.Module], ...] = (), *, whole: bool = False) -> None:
        super().__init__()
        self.leaves, self.whole = leaves, whole
        self.opaque: list[str] = []
        self._values: dict[torch.fx.Node, Callable[[], Any]] = {}

    def trace_straight(self, module: nn.Module, arguments: Mapping[str, Any] | None = None) -> torch.fx.Graph | None:
        """The module's graph, `arguments` held constant; `None` if its own forward has branches."""
        if "forward" in vars(module):
            return None  # torch.fx reads that of the class
        try:
            return self.trace(module, dict(arguments) if arguments else None)
        except (Exception, BranchError):  # whatever a foreign forward raises when it gets no tensors
            return None

    def is_kept(self, node: torch.fx.Node) -> bool:
        """Whether the value is still held: in an attribute or a list, after the forward has returned."""
        value = self._values.get(node)
        return value is not None and value() is not None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """torch's own layers, and those of `leaves`."""
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Its graph, or one node."""
        name = self.path_of_module(m)
        if self.is_leaf_module(m, name):
            return self.create_proxy("call_module", name, args, kwargs)
        last = next(iter(reversed(self.graph.nodes)))
        try:
            if not is_plain(m):
                raise BranchError
            return m.forward(*args, **kwargs)  # `forward` would call the hooks
        except (Exception, BranchError):
            if self.whole:
                raise
            while (node := next(iter(reversed(self.graph.nodes)))) is not last:
                self.graph.erase_node(node)
            self.opaque.append(name)
            return self.create_proxy("call_module", name, args, kwargs)

    def proxy(self, node: torch.fx.Node) -> "_Value":
        """What stands for a value."""
        value = _Value(node, self)
        self._values[node] = ref(value)
        return value

    def to_bool(self, obj: Any) -> bool:
        """`if x:`"""
        raise BranchError

    def iter(self, obj: Any) -> Iterator[Any]:
        """`for y in x:`"""
        raise BranchError

    def keys(self, obj: Any) -> Any:
        """`**x`"""
        raise BranchError


class _Value(torch.fx.Proxy):
    """Also what asks for a value's class, its length or an attribute that tensors lack is a branch."""

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        if _asked_by_a_model():
            raise BranchError
        return _Value

    def __getattr__(self, k: str) -> Any:
        if not hasattr(Tensor, k) and _asked_by_a_model():
            raise BranchError
        return super().__getattr__(k)

    def _branch(self, *_: object) -> Any:
        raise BranchError

    __len__ = __contains__ = __int__ = __float__ = __index__ = _branch


def _asked_by_a_model() -> bool:
    name = sys._getframe(2).f_globals.get("__name__", "")
    return not name.startswith("torch.")  # a model may ask torch.is_tensor, which is in `torch` itself

"""Reach: find everything that a network's forward pass can change, by following references from the network.

The search follows attributes, layers, containers and their objects, and tensors. In the network's code, it follows
globals, class attributes, closures and `functools.lru_cache`.
"""

import functools
import gc
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.method import accessors
from cnnmod.method.hooks import HOOKS

_LruCache: type = type(functools.lru_cache(lambda: None))
_ATOMS = {int, float, complex, bool, str, bytes, type(None), ModuleType, torch.dtype, torch.device, torch.Size}
# Packages whose objects are not followed. The asserts of a test refer to pytest, and through it to all tests.
_NOT_FOLLOWED = {*sys.stdlib_module_names, "torch", "numpy", "cnnmod", "pytest", "_pytest", "pluggy"}
# Packages whose code is not followed, since it caches no tensors.
_WITHOUT_CACHES = {*_NOT_FOLLOWED, "timm", "torchvision"}


class Reach:
    """All objects that can be reached from a network, and their contents when the instance is created.

    Attributes:
        modules: All modules, including the ones in plain lists.
        values: All tensors, arrays and random generators.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules: list[nn.Module] = []
        self.values: list[Any] = []
        self._saved: list[tuple[accessors.Accessor, Any, list[Any], bool]] = []
        self._seen: dict[int, object] = {}  # keeps the objects alive, so that ids stay unique
        self._code: list[object] = []
        self._shared = False
        self._walk([model])
        self._shared = True
        self._walk(self._code)

    def restore(self) -> None:
        """Restore the contents of all containers, attributes and variables.

        The caches of the network's code are shared with other networks. They are restored only if tensors were added or
        removed.
        """
        for accessor, owner, saved, shared in reversed(self._saved):
            current = accessor.read(owner)
            if len(current) == len(saved) and all(a is b for a, b in zip(current, saved, strict=True)):
                continue
            if not shared or _hold_tensor([*current, *saved]):
                accessor.write(owner, saved)

    def _save(self, accessor: accessors.Accessor, owner: Any) -> list[Any]:
        contents = accessor.read(owner)
        self._saved.append((accessor, owner, contents, self._shared))
        return contents

    def _walk(self, pending: list[object]) -> None:
        while pending:
            value = pending.pop()
            if type(value) in _ATOMS or id(value) in self._seen:
                continue
            if not self._shared and isinstance(value, (FunctionType, type, _LruCache)):
                self._code.append(value)
                continue
            self._seen[id(value)] = value
            pending.extend(self._visit(value))

    def _visit(self, value: Any) -> Iterable[object]:
        """Save the contents of the value, and return the objects to follow next."""
        if type(value) is dict:
            return self._dictionary(value)
        if _is_value(value):
            if not (self._shared and isinstance(value, nn.Parameter)):
                self.values.append(value)
            return ()
        if isinstance(value, nn.Module):
            self.modules.append(value)
            # TorchScript modules need these.
            own = (*value.children(), *value.parameters(recurse=False), *value.buffers(recurse=False))
            return (*own, type(value), *self._dictionary(vars(value), skip=HOOKS))
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, _LruCache):
            self._save(accessors.CACHE, value)
            return (value.__wrapped__,)
        if isinstance(value, MethodType):
            return (value.__self__, value.__func__)
        if isinstance(value, (staticmethod, classmethod)):
            return (value.__func__,)
        if isinstance(value, property):
            return (value.fget,)
        if isinstance(value, functools.partial):
            return (value.func, value.args, value.keywords)
        return (*self._container(value), *self._attributes(value))

    def _container(self, value: Any) -> Iterable[object]:
        if isinstance(value, dict):
            return self._dictionary(value)
        for container_class, accessor in ((list, accessors.LIST), (set, accessors.SET), (deque, accessors.DEQUE)):
            if isinstance(value, container_class):
                return self._save(accessor, value)
        return tuple(value) if isinstance(value, (tuple, frozenset)) else ()

    def _dictionary(self, value: dict[Any, Any], skip: Iterable[str] = ()) -> Iterable[object]:
        items = self._save(accessors.DICT, value)
        return [items[i + 1] for i in range(0, len(items), 2) if items[i] not in skip] if skip else items[1::2]

    def _attributes(self, value: Any) -> Iterator[object]:
        """Yield the object's class, its dictionary of attributes and the attributes in its slots."""
        value_class = type(value)
        if _is_of(value_class.__module__, _NOT_FOLLOWED) and value_class is not SimpleNamespace:
            return
        yield value_class
        with suppress(AttributeError):  # the class has only slots
            yield object.__getattribute__(value, "__dict__")
        for slots in (vars(base).get("__slots__", ()) for base in value_class.__mro__):
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__"):
                    yield from self._save(accessors.ATTRIBUTE, (value, name))

    def _class(self, owner: type) -> Iterable[object]:
        if _is_of(owner.__module__, _WITHOUT_CACHES):
            return ()
        self._save(accessors.CLASS, owner)
        used = [value for name, value in vars(owner).items() if not name.startswith("__") or name == "__call__"]
        return (*used, *owner.__bases__)

    def _function(self, function: FunctionType) -> Iterator[object]:
        for cell in function.__closure__ or ():
            yield from self._save(accessors.ATTRIBUTE, (cell, "cell_contents"))
        yield from (vars(function), function.__defaults__, function.__kwdefaults__)
        variables = function.__globals__
        if _is_of(variables.get("__name__"), _WITHOUT_CACHES):
            return
        names = _names(function.__code__)
        for name in names:
            for value in self._save(accessors.VARIABLE, (variables, name)):
                yield value
                if isinstance(value, ModuleType) and not _is_of(value.__name__, _WITHOUT_CACHES):
                    yield from (vars(value)[inner] for inner in names if inner in vars(value))  # `layers.make_grid`


def _is_value(value: object) -> bool:
    if isinstance(value, (Tensor, torch.Generator, random.Random)):
        return True
    value_class = type(value)
    module = str(value_class.__module__)  # not a string for classes of Cython
    return module.startswith("numpy") and value_class.__name__ in ("ndarray", "Generator", "RandomState")


def _is_of(module: str | None, packages: set[str]) -> bool:
    return module is not None and module.partition(".")[0] in packages


def _names(code: CodeType) -> set[str]:
    """Return the names of the variables and attributes that the code and its inner functions use."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _hold_tensor(values: list[object]) -> bool:
    """Return whether a value is a tensor or refers to one, over at most five references."""
    seen: set[int] = set()
    for _ in range(6):
        referents: list[object] = []
        for value in values:
            if isinstance(value, Tensor):
                return True
            if id(value) not in seen and not isinstance(value, (type, FunctionType, ModuleType)):
                seen.add(id(value))
                referents += gc.get_referents(value)
        values = referents
    return False

"""Reach: find everything that a network's forward pass can change, by following references from the network.

Followed from the network: attributes, layers, containers and the objects in them, tensors. Followed from its code:
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

from cnnmod.method import places
from cnnmod.method.hooks import HOOKS

_LruCache: type = type(functools.lru_cache(lambda: None))
_ATOMS = {int, float, complex, bool, str, bytes, type(None), ModuleType, torch.dtype, torch.device, torch.Size}
_CLOSED = {*sys.stdlib_module_names, "torch", "numpy", "cnnmod"}  # packages whose objects are not followed
_WITHOUT_CACHES = {*_CLOSED, "timm", "torchvision"}  # the code of these packages is not followed: it caches no tensors


class Reach:
    """All objects that can be reached from a network, and their present contents.

    Attributes:
        modules: All modules, including the ones in plain lists.
        values: All tensors, arrays and random generators.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules: list[nn.Module] = []
        self.values: list[Any] = []
        self._kept: list[tuple[places.Place, Any, list[Any], bool]] = []
        self._seen: dict[int, object] = {}  # keeps the objects alive, so that no id is used twice
        self._code: list[object] = []
        self._shared = False
        self._walk([model])
        self._shared = True
        self._walk(self._code)

    def put_back(self) -> None:
        """Restore the contents of all containers, attributes and variables.

        The caches of the network's code are shared with other networks. They are restored only if tensors were added or
        removed.
        """
        for place, owner, before, shared in reversed(self._kept):
            now = place.read(owner)
            if len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True)):
                continue
            if not shared or _hold_tensor([*now, *before]):
                place.write(owner, before)

    def _keep(self, place: places.Place, owner: Any) -> list[Any]:
        contents = place.read(owner)
        self._kept.append((place, owner, contents, self._shared))
        return contents

    def _walk(self, waiting: list[object]) -> None:
        while waiting:
            value = waiting.pop()
            if type(value) in _ATOMS or id(value) in self._seen:
                continue
            if not self._shared and isinstance(value, (FunctionType, type, _LruCache)):
                self._code.append(value)
                continue
            self._seen[id(value)] = value
            waiting.extend(self._enter(value))

    def _enter(self, value: Any) -> Iterable[object]:
        """Keep the value's contents and return the objects to follow next."""
        if type(value) is dict:
            return self._dictionary(value)
        if _is_value(value):
            if not (self._shared and isinstance(value, nn.Parameter)):
                self.values.append(value)
            return ()
        if isinstance(value, nn.Module):
            self.modules.append(value)
            own = (*value.children(), *value.parameters(recurse=False), *value.buffers(recurse=False))  # TorchScript's
            return (*own, type(value), *self._dictionary(vars(value), skip=HOOKS))
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, _LruCache):
            self._keep(places.CACHE, value)
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
        for container_class, place in ((list, places.LIST), (set, places.SET), (deque, places.DEQUE)):
            if isinstance(value, container_class):
                return self._keep(place, value)
        return tuple(value) if isinstance(value, (tuple, frozenset)) else ()

    def _dictionary(self, value: dict[Any, Any], skip: Iterable[str] = ()) -> Iterable[object]:
        items = self._keep(places.DICT, value)
        return [items[i + 1] for i in range(0, len(items), 2) if items[i] not in skip] if skip else items[1::2]

    def _attributes(self, value: Any) -> Iterator[object]:
        """Yield the object's class, its dictionary of attributes and the attributes in its slots."""
        value_class = type(value)
        if _is_of(value_class.__module__, _CLOSED) and value_class is not SimpleNamespace:
            return
        yield value_class
        with suppress(AttributeError):
            yield object.__getattribute__(value, "__dict__")
        for slots in (vars(base).get("__slots__", ()) for base in value_class.__mro__):
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__"):
                    yield from self._keep(places.ATTRIBUTE, (value, name))

    def _class(self, owner: type) -> Iterable[object]:
        if _is_of(owner.__module__, _WITHOUT_CACHES):
            return ()
        self._keep(places.CLASS, owner)
        used = [value for name, value in vars(owner).items() if not name.startswith("__") or name == "__call__"]
        return (*used, *owner.__bases__)

    def _function(self, function: FunctionType) -> Iterator[object]:
        for cell in function.__closure__ or ():
            yield from self._keep(places.ATTRIBUTE, (cell, "cell_contents"))
        yield from (vars(function), function.__defaults__, function.__kwdefaults__)
        variables = function.__globals__
        if _is_of(variables.get("__name__"), _WITHOUT_CACHES):
            return
        names = _names(function.__code__)
        for name in names:
            for value in self._keep(places.VARIABLE, (variables, name)):
                yield value
                if isinstance(value, ModuleType) and not _is_of(value.__name__, _WITHOUT_CACHES):
                    yield from (vars(value)[inner] for inner in names if inner in vars(value))  # `layers.make_grid`


def _is_value(value: object) -> bool:
    if isinstance(value, (Tensor, torch.Generator, random.Random)):
        return True
    value_class = type(value)
    module = str(value_class.__module__)  # for Cython's classes it is not a string
    return module.startswith("numpy") and value_class.__name__ in ("ndarray", "Generator", "RandomState")


def _is_of(module: str | None, packages: set[str]) -> bool:
    return module is not None and module.partition(".")[0] in packages


def _names(code: CodeType) -> set[str]:
    """Return the names of the variables and attributes that the code and its inner functions use."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _hold_tensor(values: list[object], depth: int = 5) -> bool:
    """Return whether a value is a tensor or refers to one, over at most `depth` references."""
    seen: set[int] = set()
    for _ in range(depth + 1):
        referents: list[object] = []
        for value in values:
            if isinstance(value, Tensor):
                return True
            if id(value) not in seen and not isinstance(value, (type, FunctionType, ModuleType)):
                seen.add(id(value))
                referents += gc.get_referents(value)
        values = referents
    return False

"""Places that hold something: how to read each kind, and how to write back what was read."""

import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple


class Place(NamedTuple):
    """A kind of place.

    Attributes:
        read: What a place of this kind holds, as a list; a variable that is not there holds nothing.
        write: Give the place what was read.
    """

    read: Callable[[Any], list[Any]]
    write: Callable[[Any, list[Any]], object]


def _items(where: dict[Any, Any]) -> list[Any]:
    return [part for item in _kind(where).items(where) for part in item]


def _set_items(where: dict[Any, Any], before: list[Any]) -> None:
    kind = _kind(where)
    kind.clear(where)
    for key, value in zip(before[::2], before[1::2], strict=True):
        kind.__setitem__(where, key, value)


def _kind(where: dict[Any, Any]) -> Any:
    """Whose methods are taken, since a class may have overridden its own."""
    return OrderedDict if isinstance(where, OrderedDict) else dict


def _class_attributes(where: type) -> list[Any]:
    return [part for item in vars(where).items() for part in item]


def _set_class_attributes(where: type, before: list[Any]) -> None:
    kept, now = dict(zip(before[::2], before[1::2], strict=True)), dict(vars(where))
    for name in kept | now:
        if name not in kept:
            delattr(where, name)
        elif name not in now or kept[name] is not now[name]:
            setattr(where, name, kept[name])


def _attribute(where: tuple[Any, str]) -> list[Any]:
    try:
        return [getattr(*where)]
    except (AttributeError, ValueError):  # a slot, or a variable of a closure, without a value
        return []


def _set_attribute(where: tuple[Any, str], before: list[Any]) -> None:
    setattr(*where, before[0]) if before else delattr(*where)


def _variable(where: tuple[dict[str, Any], str]) -> list[Any]:
    variables, name = where
    return [variables[name]] if name in variables else []


def _set_variable(where: tuple[dict[str, Any], str], before: list[Any]) -> None:
    variables, name = where
    if before:
        variables[name] = before[0]
    else:
        variables.pop(name, None)


def _set_set(where: set[Any], before: list[Any]) -> None:
    set.clear(where)
    set.update(where, before)


def _set_deque(where: deque[Any], before: list[Any]) -> None:
    deque.clear(where)
    deque.extend(where, before)


def _cache(where: Any) -> list[Any]:
    """What it holds cannot be read, but how often something was added; interned, since it is compared by identity."""
    return [where, sys.intern(str(where.cache_info().misses))]


DICT = Place(_items, _set_items)
LIST = Place(list, lambda where, before: list.__setitem__(where, slice(None), before))
SET = Place(list, _set_set)
DEQUE = Place(list, _set_deque)
CLASS = Place(_class_attributes, _set_class_attributes)
ATTRIBUTE = Place(_attribute, _set_attribute)  # of an object or a closure
VARIABLE = Place(_variable, _set_variable)  # of a Python module
CACHE = Place(_cache, lambda where, _: where.cache_clear())  # of functools.lru_cache

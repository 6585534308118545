"""Places that hold objects (containers, attributes, variables), and how to read and restore the contents of each."""

import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple


class Place(NamedTuple):
    """A type of place.

    Attributes:
        read: Returns the contents of a place as a list, which is empty for a missing variable.
        write: Sets the contents of a place to what `read` returned.
    """

    read: Callable[[Any], list[Any]]
    write: Callable[[Any, list[Any]], object]


def _items(owner: dict[Any, Any]) -> list[Any]:
    return [part for item in _dict_class(owner).items(owner) for part in item]


def _set_items(owner: dict[Any, Any], before: list[Any]) -> None:
    dict_class = _dict_class(owner)
    dict_class.clear(owner)
    for key, value in zip(before[::2], before[1::2], strict=True):
        dict_class.__setitem__(owner, key, value)


def _dict_class(owner: dict[Any, Any]) -> Any:
    """Return the class whose methods are called, because a subclass may have overridden them."""
    return OrderedDict if isinstance(owner, OrderedDict) else dict


def _class_attributes(owner: type) -> list[Any]:
    return [part for item in vars(owner).items() for part in item]


def _set_class_attributes(owner: type, before: list[Any]) -> None:
    kept, now = dict(zip(before[::2], before[1::2], strict=True)), dict(vars(owner))
    for name in kept | now:
        if name not in kept:
            delattr(owner, name)
        elif name not in now or kept[name] is not now[name]:
            setattr(owner, name, kept[name])


def _attribute(owner: tuple[Any, str]) -> list[Any]:
    try:
        return [getattr(*owner)]
    except (AttributeError, ValueError):  # a slot or a variable of a closure without a value
        return []


def _set_attribute(owner: tuple[Any, str], before: list[Any]) -> None:
    setattr(*owner, before[0]) if before else delattr(*owner)


def _variable(owner: tuple[dict[str, Any], str]) -> list[Any]:
    variables, name = owner
    return [variables[name]] if name in variables else []


def _set_variable(owner: tuple[dict[str, Any], str], before: list[Any]) -> None:
    variables, name = owner
    if before:
        variables[name] = before[0]
    else:
        variables.pop(name, None)


def _set_set(owner: set[Any], before: list[Any]) -> None:
    set.clear(owner)
    set.update(owner, before)


def _set_deque(owner: deque[Any], before: list[Any]) -> None:
    deque.clear(owner)
    deque.extend(owner, before)


def _cache(owner: Any) -> list[Any]:
    """Return the number of misses, since the contents cannot be read. It is interned, to be compared by identity."""
    return [owner, sys.intern(str(owner.cache_info().misses))]


DICT = Place(_items, _set_items)
LIST = Place(list, lambda owner, before: list.__setitem__(owner, slice(None), before))
SET = Place(list, _set_set)
DEQUE = Place(list, _set_deque)
CLASS = Place(_class_attributes, _set_class_attributes)
ATTRIBUTE = Place(_attribute, _set_attribute)  # of an object or a closure
VARIABLE = Place(_variable, _set_variable)  # of a Python module
CACHE = Place(_cache, lambda owner, _: owner.cache_clear())  # of functools.lru_cache

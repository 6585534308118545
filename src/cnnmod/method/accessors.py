"""Accessors, which read and restore the contents of containers, attributes and variables."""

import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple


class Accessor(NamedTuple):
    """How to read and restore the contents of one type of owner, such as a list or an attribute of an object.

    Attributes:
        read: Returns the contents of an owner as a list. It is empty for a missing attribute or variable.
        write: Sets the contents of an owner to a list that `read` returned.
    """

    read: Callable[[Any], list[Any]]
    write: Callable[[Any, list[Any]], object]


def _items(owner: dict[Any, Any]) -> list[Any]:
    return [part for item in _dict_class(owner).items(owner) for part in item]


def _set_items(owner: dict[Any, Any], contents: list[Any]) -> None:
    dict_class = _dict_class(owner)
    dict_class.clear(owner)
    for key, value in zip(contents[::2], contents[1::2], strict=True):
        dict_class.__setitem__(owner, key, value)


def _dict_class(owner: dict[Any, Any]) -> Any:
    """Return the class whose methods are called, because a subclass may have overridden them."""
    return OrderedDict if isinstance(owner, OrderedDict) else dict


def _class_attributes(owner: type) -> list[Any]:
    return [part for item in vars(owner).items() for part in item]


def _set_class_attributes(owner: type, contents: list[Any]) -> None:
    saved, current = dict(zip(contents[::2], contents[1::2], strict=True)), dict(vars(owner))
    for name in saved | current:
        if name not in saved:
            delattr(owner, name)
        elif name not in current or saved[name] is not current[name]:
            setattr(owner, name, saved[name])


def _attribute(owner: tuple[Any, str]) -> list[Any]:
    try:
        return [getattr(*owner)]
    except (AttributeError, ValueError):  # a slot or a variable of a closure without a value
        return []


def _set_attribute(owner: tuple[Any, str], contents: list[Any]) -> None:
    setattr(*owner, contents[0]) if contents else delattr(*owner)


def _variable(owner: tuple[dict[str, Any], str]) -> list[Any]:
    variables, name = owner
    return [variables[name]] if name in variables else []


def _set_variable(owner: tuple[dict[str, Any], str], contents: list[Any]) -> None:
    variables, name = owner
    if contents:
        variables[name] = contents[0]
    else:
        variables.pop(name, None)


def _set_set(owner: set[Any], contents: list[Any]) -> None:
    set.clear(owner)
    set.update(owner, contents)


def _set_deque(owner: deque[Any], contents: list[Any]) -> None:
    deque.clear(owner)
    deque.extend(owner, contents)


def _cache(owner: Any) -> list[Any]:
    """Return the number of misses, since the contents cannot be read. The text is interned and compared by identity."""
    return [owner, sys.intern(str(owner.cache_info().misses))]


DICT = Accessor(_items, _set_items)
LIST = Accessor(list, lambda owner, contents: list.__setitem__(owner, slice(None), contents))
SET = Accessor(list, _set_set)
DEQUE = Accessor(list, _set_deque)
CLASS = Accessor(_class_attributes, _set_class_attributes)
ATTRIBUTE = Accessor(_attribute, _set_attribute)  # of an object or a closure
VARIABLE = Accessor(_variable, _set_variable)  # of a Python module
CACHE = Accessor(_cache, lambda owner, _: owner.cache_clear())  # of functools.lru_cache

"""Fields changed as on a command line: `field=value`, and what is said of a name that nobody knows."""

import difflib
import json
from collections.abc import Mapping
from typing import Any


def read_change(change: str) -> tuple[str, Any]:
    """Field and value of a change, the value as JSON or a plain word.

    Raises:
        ValueError: It is no `field=value`.

    Examples:
        >>> read_change("epochs=3"), read_change("order=index"), read_change("c=None")
        (('epochs', 3), ('order', 'index'), ('c', None))
    """
    field, equals, text = change.partition("=")
    if not equals:
        raise ValueError(f"a change is field=value, not {change!r}")
    words = {"None": None, "True": True, "False": False}
    if text in words:
        return field, words[text]
    try:
        return field, json.loads(text)
    except ValueError:
        return field, text


def unknown_name(what: str, name: str, known: Mapping[str, object]) -> str:
    """What an error says of a name that is not known: the nearest that are, or all."""
    nearest = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
    hint = f"did you mean {', '.join(nearest)}?" if nearest else f"there are {', '.join(known)}"
    return f"unknown {what} {name!r}; {hint}"

"""Read changes of fields (`field=value`) from the command line, and suggest names for unknown ones."""

import difflib
import json
from collections.abc import Mapping
from typing import Any


def read_change(change: str) -> tuple[str, Any]:
    """Return the field and the value of a change `field=value`. The value is JSON or a plain string.

    Raises:
        ValueError: If the change has no `=`.

    Examples:
        >>> read_change("epochs=3"), read_change("order=index"), read_change("c=None")
        (('epochs', 3), ('order', 'index'), ('c', None))
    """
    field, equals, text = change.partition("=")
    if not equals:
        raise ValueError(f"a change must be field=value, not {change!r}")
    constants = {"None": None, "True": True, "False": False}
    if text in constants:
        return field, constants[text]
    try:
        return field, json.loads(text)
    except ValueError:
        return field, text


def unknown_name(noun: str, name: str, accepted: Mapping[str, object]) -> str:
    """Return the message for an unknown name. It suggests similar names, or else lists all accepted names."""
    similar = difflib.get_close_matches(name, accepted, n=2, cutoff=0.4)
    hint = f"did you mean {', '.join(similar)}?" if similar else f"the {noun}s are {', '.join(accepted)}"
    return f"unknown {noun} {name!r}; {hint}"

"""JSON values as dataclasses."""

import dataclasses
import json
import os
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin


def read_json(path: str | os.PathLike[str]) -> Any:
    """The values of a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no JSON; the error names the file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def read_values(path: str | os.PathLike[str], schema: str) -> dict[str, Any]:
    """The values of a JSON file of this schema.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no JSON, or of another schema.
    """
    values = read_json(path)
    found = values.pop("schema", None) if isinstance(values, dict) else None
    if found != schema:
        raise ValueError(f"{path} has the schema {found!r}; this cnnmod reads {schema!r}")
    return values


def parse(kind: Any, value: Any, where: str) -> Any:
    """JSON values as the dataclass or type `kind`; nothing missing that has no default, nothing unknown.

    Args:
        kind: A dataclass, a class with `from_dict`, a number, a string, a list, a tuple of one type of any or a fixed
            length, a dictionary, a
            `Literal`, a union of plain types, or `Any`.
        value: What `json.loads` made.
        where: What errors name.

    Raises:
        ValueError: The first value that does not fit.

    Example:
        >>> parse(list[int], [1, "2"], "batch sizes")
        Traceback (most recent call last):
        ...
        ValueError: batch sizes[1] is '2', not <class 'int'>
    """
    if kind is Any:
        return value
    if hasattr(kind, "from_dict") and isinstance(value, dict):
        try:
            return kind.from_dict(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise ValueError(f"{where} is {value!r}, not an object")
        hints = typing.get_type_hints(kind)
        optional = {field.name for field in dataclasses.fields(kind) if _has_default(field)}
        if differing := sorted((set(hints) ^ set(value)) - (optional - set(value))):
            raise ValueError(f"{where}: fields missing or unknown: {', '.join(differing)}")
        return kind(**{name: parse(hints[name], item, f"{where}: {name}") for name, item in value.items()})
    arguments = get_args(kind)
    if get_origin(kind) is list and isinstance(value, list):
        return [parse(arguments[0], item, f"{where}[{number}]") for number, item in enumerate(value)]
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        if ... not in arguments and len(value) != len(arguments):
            raise ValueError(f"{where} is {value!r}, not {len(arguments)} values")
        return tuple(parse(arguments[0], item, f"{where}[{number}]") for number, item in enumerate(value))
    if get_origin(kind) is dict and isinstance(value, dict):
        return {name: parse(arguments[1], item, f"{where}: {name}") for name, item in value.items()}
    if get_origin(kind) is types.UnionType:
        errors: list[ValueError] = []
        for alternative in arguments:
            try:
                return parse(alternative, value, where)
            except ValueError as error:
                errors.append(error)
        raise errors[-1] if isinstance(value, dict) else ValueError(f"{where} is {value!r}, not {kind}")
    if get_origin(kind) is Literal:
        accepted = value in arguments
    else:
        accepted = type(value) is kind or (kind is float and type(value) is int)
    if not accepted:
        raise ValueError(f"{where} is {value!r}, not {kind}")
    return value


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING

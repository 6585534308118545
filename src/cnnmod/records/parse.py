"""Convert JSON values to dataclasses and validate them."""

import dataclasses
import json
import os
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the values of a JSON file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not valid JSON. NaN and Infinity are not valid, although Python writes them.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def read_values(path: str | os.PathLike[str], schema: str) -> dict[str, Any]:
    """Return the values of a JSON file with this schema.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not valid JSON, or has another schema.
    """
    values = read_json(path)
    file_schema = values.pop("schema", None) if isinstance(values, dict) else None
    if file_schema != schema:
        raise ValueError(f"{path} has the schema {file_schema!r}; this version of cnnmod reads {schema!r}")
    return values


def parse(expected: Any, value: Any, name: str, replacements: Mapping[Any, Any] = types.MappingProxyType({})) -> Any:
    """Convert a JSON value to the expected type.

    A dataclass must have all fields without a default, and no others. Numbers must be finite.

    Args:
        expected: A dataclass, a class with `from_dict`, a number, a string, a list, a tuple, a dictionary, a `Literal`,
            a union of plain types, or `Any`. A tuple has a fixed length, or items of one type and any length.
        value: The result of `json.loads`.
        name: The name of the value in error messages.
        replacements: Types to use instead of other types, for example a subclass instead of the abstract class of a
            field.

    Raises:
        ValueError: If a value does not have the expected type. The message names the first one.

    Examples:
        >>> parse(list[int], [1, "2"], "batch sizes")
        Traceback (most recent call last):
        ...
        ValueError: batch sizes[1] must be int, not '2'
    """
    expected = replacements.get(expected, expected)
    if expected is Any:
        return value
    if hasattr(expected, "from_dict") and isinstance(value, dict):
        try:
            return expected.from_dict(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be a JSON object, not {value!r}")
        all_hints = typing.get_type_hints(expected)
        hints = {field.name: all_hints[field.name] for field in dataclasses.fields(expected)}
        optional = {field.name for field in dataclasses.fields(expected) if has_default(field)}
        if differing := sorted((set(hints) ^ set(value)) - (optional - set(value))):
            raise ValueError(f"{name}: fields missing or unknown: {', '.join(differing)}")
        return expected(**{key: parse(hints[key], item, f"{name}: {key}", replacements) for key, item in value.items()})
    arguments = get_args(expected)
    if get_origin(expected) is list and isinstance(value, list):
        return [parse(arguments[0], item, f"{name}[{number}]", replacements) for number, item in enumerate(value)]
    if get_origin(expected) is tuple and isinstance(value, (list, tuple)):
        if ... not in arguments and len(value) != len(arguments):
            raise ValueError(f"{name} must be {len(arguments)} values, not {value!r}")
        return tuple(parse(arguments[0], item, f"{name}[{number}]", replacements) for number, item in enumerate(value))
    if get_origin(expected) is dict and isinstance(value, dict):
        return {key: parse(arguments[1], item, f"{name}: {key}", replacements) for key, item in value.items()}
    if get_origin(expected) is types.UnionType:
        errors: list[ValueError] = []
        for alternative in arguments:
            try:
                return parse(alternative, value, name, replacements)
            except ValueError as error:
                errors.append(error)
        if isinstance(value, dict):  # the error of the last alternative names the field that is wrong
            raise errors[-1]
        raise ValueError(f"{name} must be {_describe(expected)}, not {value!r}")
    if get_origin(expected) is Literal:
        accepted = value in arguments
    else:
        accepted = type(value) is expected or (expected is float and type(value) is int)
    if not accepted:
        raise ValueError(f"{name} must be {_describe(expected)}, not {value!r}")
    if expected is float and not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name} must be finite, not {value!r}")
    return value


def _describe(expected: Any) -> str:
    """Return the accepted values as text."""
    origin = get_origin(expected)
    if origin is Literal:
        return f"one of {', '.join(map(repr, get_args(expected)))}"
    if origin in (list, tuple, dict):
        return "a JSON object" if origin is dict else "a list"
    return expected.__name__ if isinstance(expected, type) and not get_args(expected) else str(expected)


def has_default(field: dataclasses.Field[Any]) -> bool:
    """Whether a field of a dataclass has a default."""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING

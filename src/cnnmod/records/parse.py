"""JSON values as dataclasses."""

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
    """The values of a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no JSON; NaN and Infinity, which Python writes, are none.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in it")


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


def parse(kind: Any, value: Any, where: str, instead: Mapping[Any, Any] = types.MappingProxyType({})) -> Any:
    """JSON values as the dataclass or type `kind`; nothing unknown, nothing missing but fields with a default.

    Args:
        kind: A dataclass, a class with `from_dict`, a number, a string, a list, a tuple of one type of any or a fixed
            length, a dictionary, a
            `Literal`, a union of plain types, or `Any`.
        value: What `json.loads` made.
        where: What errors name.
        instead: Types that stand for others, as the class of a field's values for its base class.

    Raises:
        ValueError: The first value that does not fit; numbers must be finite.

    Examples:
        >>> parse(list[int], [1, "2"], "batch sizes")
        Traceback (most recent call last):
        ...
        ValueError: batch sizes[1] is '2', not <class 'int'>
    """
    kind = instead.get(kind, kind)
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
        every = typing.get_type_hints(kind)
        hints = {field.name: every[field.name] for field in dataclasses.fields(kind)}
        optional = {field.name for field in dataclasses.fields(kind) if _has_default(field)}
        if differing := sorted((set(hints) ^ set(value)) - (optional - set(value))):
            raise ValueError(f"{where}: fields missing or unknown: {', '.join(differing)}")
        return kind(**{name: parse(hints[name], item, f"{where}: {name}", instead) for name, item in value.items()})
    arguments = get_args(kind)
    if get_origin(kind) is list and isinstance(value, list):
        return [parse(arguments[0], item, f"{where}[{number}]", instead) for number, item in enumerate(value)]
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        if ... not in arguments and len(value) != len(arguments):
            raise ValueError(f"{where} is {value!r}, not {len(arguments)} values")
        return tuple(parse(arguments[0], item, f"{where}[{number}]", instead) for number, item in enumerate(value))
    if get_origin(kind) is dict and isinstance(value, dict):
        return {name: parse(arguments[1], item, f"{where}: {name}", instead) for name, item in value.items()}
    if get_origin(kind) is types.UnionType:
        errors: list[ValueError] = []
        for alternative in arguments:
            try:
                return parse(alternative, value, where, instead)
            except ValueError as error:
                errors.append(error)
        raise errors[-1] if isinstance(value, dict) else ValueError(f"{where} is {value!r}, not {kind}")
    if get_origin(kind) is Literal:
        accepted = value in arguments
    else:
        accepted = type(value) is kind or (kind is float and type(value) is int)
    if not accepted:
        raise ValueError(f"{where} is {value!r}, not {kind}")
    if kind is float and not abs(value) <= sys.float_info.max:
        raise ValueError(f"{where} is {value!r}, not finite")
    return value


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING

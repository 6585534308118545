"""Name the outputs of a network, as they are named in a file; copy them."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from cnnmod.deploy.selector import SELECTED

IMAGES = "images"  # the input of every file


def named_outputs(output: Any) -> dict[str, Tensor]:
    """Return the tensors that a network returns, with their names in a file.

    A name is the path to the tensor: keys of dictionaries, fields of named tuples and dataclasses, and indices of lists
    and tuples, joined by dots. The names of the items of a list or tuple start with `output`. A single tensor has the
    name `logits` if it has two dimensions, else `output`. `None` is skipped. A number is appended to a name that
    the input, another output or the selected channels of a MoD block already have.

    Args:
        output: What the network returns.

    Raises:
        ValueError: If the network returns no tensor, an object that is not a tensor, or a key that is not a valid name.

    Examples:
        >>> y_NC = torch.rand(2, 10)
        >>> list(named_outputs({"loss": None, "logits": y_NC, "f": [y_NC * 2, y_NC * 3]}))
        ['logits', 'f.0', 'f.1']
        >>> list(named_outputs((y_NC, {"aux": y_NC})))
        ['output.0', 'output.1.aux']
    """
    if isinstance(output, Tensor):
        tensors = [("logits" if output.ndim == 2 else "output", output)]
    else:
        has_names = not isinstance(output, (list, tuple)) or _named_fields(output) is not None
        tensors = list(_tensors(output, "" if has_names else "output"))
    if not tensors:
        raise ValueError(f"the network returns no tensor but {_description(output)}; a file needs at least one tensor")
    for name, value in tensors:
        if value.layout is not torch.strided or value.is_nested:
            raise ValueError(
                f"the network returns a sparse or nested tensor as {name!r}; only dense ones are supported"
            )
    paths = {name for name, _ in tensors}
    named: dict[str, Tensor] = {}
    for name, value in tensors:
        unique_name, number = name, 0
        while (
            unique_name in named
            or unique_name == IMAGES
            or unique_name.endswith(SELECTED)
            or (number and unique_name in paths)
        ):
            number += 1
            unique_name = f"{name}_{number}"
        named[unique_name] = value
    return named


def plain(output: Any) -> Any:
    """Return the same tensors in plain dictionaries, lists and tuples, which a file of torch.export can hold.

    Examples:
        >>> import collections
        >>> plain(collections.namedtuple("Both", "a b")(1, [2, None]))
        {'a': 1, 'b': [2, None]}
    """
    if (fields := _named_fields(output)) is not None:
        return {_name(key) if isinstance(key, Enum) else key: plain(value) for key, value in fields.items()}
    if isinstance(output, (list, tuple)):
        values = [plain(value) for value in output]
        return values if isinstance(output, list) else tuple(values)
    return output


def copied(output: Any) -> Any:
    """Return a copy of what a network returned. Its tensors are new tensors."""
    return output.clone() if type(output) is Tensor else copy.deepcopy(output)


def _tensors(output: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield path, output
    elif output is not None:
        fields = _named_fields(output)
        if fields is None and isinstance(output, (list, tuple)):
            fields = dict(enumerate(output))
        if fields is None:
            raise ValueError(
                f"the network returns {_description(output)}{f' as {path!r}' if path else ''}; supported are tensors "
                "and None, in dictionaries, lists, tuples, named tuples and dataclasses"
            )
        for key, value in fields.items():
            yield from _tensors(value, f"{path}.{_name(key)}" if path else _name(key))


def _named_fields(output: Any) -> dict[Any, Any] | None:
    """Return the values by key or field, or `None` if the output has neither."""
    if isinstance(output, Mapping):
        return dict(output)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, tuple) and (names := getattr(output, "_fields", None)) is not None:
        return dict(zip(names, output, strict=True))
    return None


def _name(key: Any) -> str:
    key = key.value if isinstance(key, Enum) else key
    if not isinstance(key, (str, int)) or not str(key).isprintable() or key == "":
        raise ValueError(
            f"the network returns a dictionary with the key {key!r}, which cannot name an output; supported "
            "keys are printable strings and integers"
        )
    return str(key)


def _description(output: Any) -> str:
    class_name = type(output).__name__
    return "None" if output is None else f"{'an' if class_name[0].lower() in 'aeiou' else 'a'} {class_name}"

"""What a network returns, by name: what its outputs are called in a file."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from cnnmod.deploy.selector import SELECTED

IMAGES = "images"  # the input of every file


def named_outputs(output: Any) -> dict[str, Tensor]:
    """The tensors that a network returns, by the names that they have in a file.

    A name is the way to the tensor: keys of dictionaries, fields of named tuples and dataclasses, places in lists and
    tuples, joined by dots. `None` has no name. What a list or tuple returns starts with `output`. A tensor alone is
    `logits` if it is of two dimensions, else `output`. A name that the input, another output or the selected channels
    of a MoD block have gets a number after it.

    Raises:
        ValueError: The network returns no tensor, or something else than tensors, or a key that is no name.

    Examples:
        >>> y_NC = torch.rand(2, 10)
        >>> list(named_outputs({"loss": None, "logits": y_NC, "f": [y_NC * 2, y_NC * 3]}))
        ['logits', 'f.0', 'f.1']
        >>> list(named_outputs((y_NC, {"aux": y_NC})))
        ['output.0', 'output.1.aux']
    """
    if isinstance(output, Tensor):
        places = [("logits" if output.ndim == 2 else "output", output)]
    else:
        has_names = not isinstance(output, (list, tuple)) or _named_fields(output) is not None
        places = list(_tensors(output, "" if has_names else "output"))
    if not places:
        raise ValueError(f"the network returns no tensor, but {_said(output)}; a file needs at least one")
    for name, value in places:
        if value.layout is not torch.strided or value.is_nested:
            raise ValueError(f"the network returns a sparse or nested tensor as {name!r}; a file takes dense ones")
    given = Counter(name for name, _ in places)
    named: dict[str, Tensor] = {}
    for name, value in places:
        new, number = name, 0
        while new in named or new == IMAGES or new.endswith(SELECTED) or (number and new in given):
            number += 1
            new = f"{name}_{number}"
        named[new] = value
    return named


def plain(output: Any) -> Any:
    """The same tensors in dictionaries, lists and tuples of Python's own, which a file of torch.export can hold.

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


def _tensors(output: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield where, output
    elif output is not None:
        fields = _named_fields(output)
        if fields is None and isinstance(output, (list, tuple)):
            fields = dict(enumerate(output))
        if fields is None:
            raise ValueError(
                f"the network returns {_said(output)}{f' as {where!r}' if where else ''}; a file takes tensors and "
                "None, in dictionaries, lists, tuples, named tuples and dataclasses"
            )
        for key, value in fields.items():
            yield from _tensors(value, f"{where}.{_name(key)}" if where else _name(key))


def _named_fields(output: Any) -> dict[Any, Any] | None:
    """The values by key or field, of what has them; Hugging Face's outputs are dictionaries and dataclasses."""
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
            f"the network returns a dictionary with the key {key!r}, which cannot name an output; a file takes "
            "printable strings and integers"
        )
    return str(key)


def _said(output: Any) -> str:
    kind = type(output).__name__
    return "None" if output is None else f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"

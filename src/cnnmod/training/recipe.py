"""A recipe: everything that decides a network's weights, but where the images are and the seed."""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from cnnmod.records.changes import read_change, unknown_name
from cnnmod.records.parse import parse
from cnnmod.training.flat_recipe import is_flat, nested
from cnnmod.training.options import ImageOptions, Networks, Optimization, System
from cnnmod.training.tasks import Task, find_task

_PARTS = {"networks": Networks, "images": ImageOptions, "optimization": Optimization, "system": System}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a dense network, its MoD form and its control are trained, so that their accuracies can be compared.

    Attributes:
        networks: Which networks.
        task: What they do, and the options of that.
        images: What an image is to them.
        optimization: How their weights are changed.
        system: Precision, memory format, compiler.
    """

    networks: Networks
    task: Task
    images: ImageOptions
    optimization: Optimization
    system: System = field(default_factory=System)

    def __post_init__(self) -> None:
        self.task.check(self.images)

    def to_dict(self) -> dict[str, Any]:
        """The parts as JSON values; `from_dict` reads them back."""
        networks = {**vars(self.networks), "config": self.networks.config.to_dict()}
        parts = {name: vars(getattr(self, name)) for name in ("images", "optimization", "system")}
        return json.loads(json.dumps({"networks": networks, "task": self.task.to_dict(), **parts}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The inverse of `to_dict`; it also reads the flat form that files had before recipes had parts.

        Raises:
            ValueError: An unknown field, with the nearest; a missing one that has no default; an unknown task; or a
                value that does not fit.
        """
        if is_flat(values):
            values = nested(values)
        if unknown := [name for name in values if name not in (*_PARTS, "task")]:
            raise ValueError(f"unknown part of a recipe {unknown[0]!r}; the parts are {', '.join((*_PARTS, 'task'))}")
        task = values.get("task", {"name": "classification"})
        if not isinstance(task, dict) or not isinstance(task.get("name"), str):
            raise ValueError(f"task is {task!r}, not an object with a name")
        options = {name: value for name, value in task.items() if name != "name"}
        parts = {name: _read(part, values.get(name, {}), name) for name, part in _PARTS.items()}
        return cls(task=_read(find_task(task["name"]), options, "task"), **parts)

    def changed(self, changes: Sequence[str]) -> "Recipe":
        """The same with some fields changed.

        Args:
            changes: `"path=value"`, the value as JSON or a plain word. A path is as `optimization.epochs`,
                `networks.config.order`, `networks.network_args.NAME`; the end of one, as `epochs` or `config.order`, is
                enough if only one path ends so. `task=NAME` takes a task with its defaults.

        Raises:
            ValueError: An unknown path, with the nearest; an end of several paths, which are listed; or a value that
                does not fit.

        Examples:
            >>> from cnnmod.training.recipes import recipe
            >>> made = recipe("digits").changed(["optimization.epochs=3", "mixup=0.2", "networks.config.c=4"])
            >>> made.optimization.epochs, made.task.mixup, made.networks.config.c
            (3, 0.2, 4)
        """
        values = self.to_dict()
        for change in changes:
            key, value = read_change(change)
            if key == "task" and isinstance(value, str):
                values["task"] = find_task(value)().to_dict()
            else:
                _set(values, key, value)
        return Recipe.from_dict(values)


def _read(kind: type[Any], values: Any, where: str) -> Any:
    """A part of its JSON values."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {values!r}, not an object")
    fields = {part.name: part for part in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise ValueError(
                unknown_name("recipe field", f"{where}.{name}", {f"{where}.{known}": 0 for known in fields})
            )
    for name, part in fields.items():
        if name not in values and (part.default, part.default_factory) == (dataclasses.MISSING,) * 2:
            raise ValueError(f"{where}.{name} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: parse(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set what a path, or the end of one, names."""
    if match := re.fullmatch(r"(?:networks\.)?network_args\.(.+)", key):
        path = ["networks", "network_args", *match[1].split(".")]
    else:
        path = _resolved(key, [*_paths(values)]).split(".")
    holder = values
    for number, name in enumerate(path[:-1], 1):
        holder = holder.setdefault(name, {})
        if not isinstance(holder, dict):
            raise ValueError(f"{key!r} cannot be set: {'.'.join(path[:number])} is {holder!r}")
    holder[path[-1]] = value


def _resolved(key: str, paths: Sequence[str]) -> str:
    """The one path that is this, or ends with it."""
    found = [key] if key in paths else [path for path in paths if path.endswith(f".{key}")]
    if len(found) > 1:
        raise ValueError(f"{key!r} may be {' or '.join(found)}; write one of them")
    if not found:
        ends = {end: path for path in paths for end in _ends(path)}
        same = [path for path in paths if path.rpartition(".")[2] == key.rpartition(".")[2]]
        near = [ends[end] for end in difflib.get_close_matches(key, ends, n=6, cutoff=0.4)]
        close = dict.fromkeys([*same, *near])
        hint = f"did you mean {', '.join([*close][:2])}?" if close else f"the parts are {', '.join((*_PARTS, 'task'))}"
        raise ValueError(f"unknown recipe field {key!r}; {hint}")
    return found[0]


def _paths(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """All paths but those into network_args, whose names are the factory's, and the task's name."""
    for name, value in values.items():
        if f"{above}{name}" != "task.name":
            yield f"{above}{name}"
        if isinstance(value, dict) and name != "network_args":
            yield from _paths(value, f"{above}{name}.")


def _ends(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.partition(".")[2]

"""A recipe: everything that determines the weights of a network, except the images and the seed."""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from cnnmod.records.changes import read_change, unknown_name
from cnnmod.records.parse import has_default, parse
from cnnmod.training.flat_recipe import is_flat, nested
from cnnmod.training.options import ImageOptions, Networks, Optimization, System
from cnnmod.training.tasks import Task, find_task

_PARTS = {"networks": Networks, "images": ImageOptions, "optimization": Optimization, "system": System}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training of a dense network, its MoD network and its control, such that their accuracies are comparable.

    Attributes:
        networks: Which networks to train.
        task: The task of the networks, with its options.
        images: How images are prepared.
        optimization: Optimizer, schedule and batch size.
        system: Precision, memory format and compiler.
    """

    networks: Networks
    task: Task
    images: ImageOptions
    optimization: Optimization
    system: System = field(default_factory=System)

    def __post_init__(self) -> None:
        self.task.check(self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return the parts as JSON values. `from_dict` is the inverse."""
        plan = self.networks.plan
        networks = {
            **vars(self.networks),
            "config": self.networks.config.to_dict(),
            "plan": None if plan is None else plan.to_dict(),
        }
        parts = {name: vars(getattr(self, name)) for name in ("images", "optimization", "system")}
        return json.loads(json.dumps({"networks": networks, "task": self.task.to_dict(), **parts}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Build a recipe from JSON values, as `to_dict` returns them.

        The flat form of older files, which has no parts, is also supported.

        Raises:
            ValueError: If a field or the task is unknown (the error names the nearest one), a field without a default
                is missing, or a value is invalid.
        """
        if is_flat(values):
            values = nested(values)
        if unknown := [name for name in values if name not in (*_PARTS, "task")]:
            raise ValueError(f"unknown recipe part {unknown[0]!r}; the parts are {', '.join((*_PARTS, 'task'))}")
        task = values.get("task", {"name": "classification"})
        if not isinstance(task, dict) or not isinstance(task.get("name"), str):
            raise ValueError(f"task must be an object with a name, not {task!r}")
        options = {name: value for name, value in task.items() if name != "name"}
        parts = {name: _read(part, values.get(name, {}), name) for name, part in _PARTS.items()}
        return cls(task=_read(find_task(task["name"]), options, "task"), **parts)

    def changed(self, changes: Sequence[str]) -> "Recipe":
        """Return a copy with some fields changed.

        Args:
            changes: `"path=value"` strings. The value is JSON or a plain word. A path is written as
                `optimization.epochs`, `networks.config.order` or `networks.network_args.NAME`. The end of a path, such
                as `epochs` or `config.order`, is enough if it is unique. `task=NAME` selects a task with its defaults.

        Raises:
            ValueError: If a path is unknown (the error names the nearest ones) or ambiguous, or a value is invalid.

        Examples:
            >>> from cnnmod.training.recipes import recipe
            >>> changed = recipe("digits").changed(["optimization.epochs=3", "mixup=0.2", "networks.config.c=4"])
            >>> changed.optimization.epochs, changed.task.mixup, changed.networks.config.c
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


def _read(part_class: type[Any], values: Any, part_name: str) -> Any:
    """Build a part of a recipe from its JSON values."""
    if not isinstance(values, dict):
        raise ValueError(f"{part_name} must be an object, not {values!r}")
    fields = {part_field.name: part_field for part_field in dataclasses.fields(part_class)}
    for name in values:
        if name not in fields:
            raise ValueError(
                unknown_name(
                    "recipe field", f"{part_name}.{name}", {f"{part_name}.{field_name}": 0 for field_name in fields}
                )
            )
    for name, part_field in fields.items():
        if name not in values and not has_default(part_field):
            raise ValueError(f"{part_name}.{name} is missing")
    hints = get_type_hints(part_class)
    return part_class(**{name: parse(hints[name], value, f"{part_name}.{name}") for name, value in values.items()})


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the field whose path equals the key or uniquely ends with it."""
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
    """Return the only path that equals the key or ends with it."""
    matches = [key] if key in paths else [path for path in paths if path.endswith(f".{key}")]
    if len(matches) > 1:
        raise ValueError(f"{key!r} is ambiguous; write {' or '.join(matches)}")
    if not matches:
        ends = {end: path for path in paths for end in _ends(path)}
        same_name = [path for path in paths if path.rpartition(".")[2] == key.rpartition(".")[2]]
        similar = [ends[end] for end in difflib.get_close_matches(key, ends, n=6, cutoff=0.4)]
        hints = dict.fromkeys([*same_name, *similar])
        hint = f"did you mean {', '.join([*hints][:2])}?" if hints else f"the parts are {', '.join((*_PARTS, 'task'))}"
        raise ValueError(f"unknown recipe field {key!r}; {hint}")
    return matches[0]


def _paths(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield all paths, except the name of the task and the paths into network_args, which depend on the factory."""
    for name, value in values.items():
        if f"{prefix}{name}" != "task.name":
            yield f"{prefix}{name}"
        if isinstance(value, dict) and name != "network_args":
            yield from _paths(value, f"{prefix}{name}.")


def _ends(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.partition(".")[2]

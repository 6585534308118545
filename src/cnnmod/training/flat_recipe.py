"""The flat form of recipes in older `run.json` and `accuracy.json` files, which have no parts."""

from collections.abc import Mapping
from typing import Any

_PARTS = {
    "networks": ("baseline", "network", "network_args", "config"),
    "images": ("image_size", "in_channels", "mean", "std", "train_images"),
    "optimization": (
        *("epochs", "batch_size", "accumulate", "optimizer", "learning_rate", "momentum", "weight_decay"),
        *("decay_norms", "schedule", "milestones", "decay", "warmup_epochs", "ema_decay", "clip_grad"),
    ),
    "system": ("precision", "channels_last", "compile", "sync_batch_norm"),
}
_TASKS = {
    "classification": (
        *("augmentation", "auto_augment", "random_erasing", "crop_pct", "validation_fraction", "label_smoothing"),
        *("mixup", "cutmix", "teacher", "distill_weight", "distill_temperature"),
    ),
    "segmentation": (
        *("augmentation", "scale", "crop_size", "photometric", "classes", "ignore", "backbone_weights"),
        *("aux_weight", "label_smoothing"),
    ),
    "detection": ("augmentation", "backbone_weights"),
}
_TASK_FIELDS = {name for names in _TASKS.values() for name in names}


def is_flat(values: Mapping[str, Any]) -> bool:
    """Whether the values of a recipe are in the flat form."""
    return "baseline" in values or "network" in values


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a flat recipe by part. Fields of other tasks are dropped.

    Raises:
        ValueError: If a field or the task is unknown.
    """
    task = values.get("task", "classification")
    if task not in (*_TASKS,):
        raise ValueError(f"task must be one of {', '.join(_TASKS)}, not {task!r}")
    parts: dict[str, Any] = {"task": {"name": task}, **{part: {} for part in _PARTS}}
    part_of = {name: part for part, names in _PARTS.items() for name in names} | dict.fromkeys(_TASKS[task], "task")
    for name, value in values.items():
        if name in part_of:
            parts[part_of[name]][name] = value
        elif name != "task" and name not in _TASK_FIELDS:
            raise ValueError(f"unknown recipe field {name!r}")
    return parts

"""Check the classes of a data set before training."""

import itertools
import logging
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from cnnmod.records.progress import Progress
from cnnmod.training.images import Data
from cnnmod.training.processes import all_processes

logger = logging.getLogger("cnnmod")

_checked: WeakValueDictionary[int, Data] = WeakValueDictionary()  # several runs may use the same data


def check_classes(data: Data, unit: str, progress: Progress, *, label_text: str = "", first_class: int = 0) -> None:
    """Log a warning (logger `cnnmod`) for classes without any image, pixel or box in a split.

    All labels are read. Only the main process of a run does this.

    Args:
        data: The opened data set. Each split has a method `count`.
        unit: The unit that is counted: `"image"`, `"pixel"` or `"box"`.
        progress: A callback (description, done, total). It is called if reading takes several seconds.
        label_text: The text before the list of the labels in the data. If it is empty, the labels are not listed.
        first_class: The first class that must occur. It is 1 for detection, since the background has no boxes.

    Raises:
        ValueError: If there is only one class, a split has no pixel or box of any class, or a mask or annotation is
            broken.
    """
    if not all_processes().is_main_process or _checked.get(id(data)) is data:
        return
    if data.num_classes < 2:
        raise ValueError(f"the data set has only one class, {name_classes([0], data.classes)}; it needs two or more")
    _warn_of_similar_names(data.classes or ())
    splits: dict[str, Any] = {"training": data.train, "validation": data.validation, "test": data.test}
    for split, images in splits.items():
        if images is None:
            continue
        counts = images.count(lambda done, total, split=split: progress(f"reading {split} labels", done, total))
        labels = sorted(counts, key=lambda label: label[1])
        missing = sorted({*range(first_class, data.num_classes)} - {label for _, label in labels})
        values = ", ".join(f"{value} (ignored)" if label >= data.num_classes else str(value) for value, label in labels)
        listed = f"; {label_text} {values}" if label_text and values else ""
        if len(missing) == data.num_classes - first_class:
            raise ValueError(f"no {split} {unit} belongs to any class{listed}")
        if missing:
            logger.warning("no %s %s belongs to %s%s", split, unit, name_classes(missing, data.classes), listed)
    _checked[id(data)] = data


def check_same_classes(owner: object, expected: Sequence[str] | None, actual: Sequence[str] | None) -> None:
    """Check that a data set has the same classes in the same order as a checkpoint or a run.

    Raises:
        ValueError: If they differ. The error names the first difference.
    """
    if expected is None or actual is None or list(expected) == list(actual):
        return
    differing = next(pair for pair in itertools.zip_longest(expected, actual) if pair[0] != pair[1])
    raise ValueError(
        f"{owner} has {len(expected)} classes, the data set has {len(actual)}; the first difference is "
        f"{differing[0]!r} and {differing[1]!r}"
    )


def name_classes(numbers: Sequence[int], names: Sequence[str] | None) -> str:
    """Return a short list of classes for messages, with names if there are any."""
    named = [f"class {number}" if names is None else f"{names[number]} (class {number})" for number in numbers]
    return ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")


def _warn_of_similar_names(names: Sequence[str]) -> None:
    names_by_key: dict[str, str] = {}
    for name in names:
        other = names_by_key.setdefault("".join(name.split()).casefold(), name)
        if other != name:
            logger.warning(
                "the classes %r and %r differ only in case or spaces; they are trained as two classes", other, name
            )

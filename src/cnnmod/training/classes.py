"""Classes that data do not hold: what a network neither learns nor is tested on is said before it is trained."""

import itertools
import logging
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from cnnmod.training.images import Data, Progress
from cnnmod.training.processes import all_processes

logger = logging.getLogger("cnnmod")

_checked: WeakValueDictionary[int, Data] = WeakValueDictionary()  # several runs may be trained on the same data


def check_classes(data: Data, counted: str, progress: Progress, *, seen: str = "", first: int = 0) -> None:
    """Warn (logger `cnnmod`) of classes without any image, pixel or box in a split; all labels are read for it.

    In several processes the main one does this.

    Args:
        data: The images, opened; each split counts its classes (`count`).
        counted: What has a class: `"image"`, `"pixel"` or `"box"`.
        progress: Called with what is read, how much of it is, and how much there is, if it takes seconds.
        seen: The words before the labels that there are; empty: these are not listed.
        first: The first class that something must be of: of detection 1, since its background has no boxes.

    Raises:
        ValueError: There is one class, or a split has no pixel or box of any; or a mask or annotation is broken.
    """
    if not all_processes().is_main_process or _checked.get(id(data)) is data:
        return
    if data.num_classes < 2:
        raise ValueError(f"the data have one class, {name_classes([0], data.classes)}; there is nothing to tell apart")
    _warn_of_twins(data.classes or ())
    splits: dict[str, Any] = {"training": data.train, "validation": data.validation, "test": data.test}
    for split, images in splits.items():
        if images is None:
            continue
        counts = images.count(lambda done, total, split=split: progress(f"reading {split} labels", done, total))
        found = sorted(counts, key=lambda label: label[1])
        missing = sorted({*range(first, data.num_classes)} - {label for _, label in found})
        there = ", ".join(f"{value} (ignored)" if label >= data.num_classes else str(value) for value, label in found)
        listed = f"; {seen} {there}" if seen and there else ""
        if len(missing) == data.num_classes - first:
            raise ValueError(f"no {split} {counted} is of any class{listed}")
        if missing:
            logger.warning("no %s %s is of %s%s", split, counted, name_classes(missing, data.classes), listed)
    _checked[id(data)] = data


def check_same_classes(owner: object, known: Sequence[str] | None, there: Sequence[str] | None) -> None:
    """Check that data have the classes that a checkpoint or a run knows, in the same order.

    Raises:
        ValueError: They differ; the error names the first that does.
    """
    if known is None or there is None or list(known) == list(there):
        return
    differing = next(pair for pair in itertools.zip_longest(known, there) if pair[0] != pair[1])
    raise ValueError(
        f"{owner} knows {len(known)} classes, the data has {len(there)}; the first that differ are "
        f"{differing[0]!r} and {differing[1]!r}"
    )


def name_classes(numbers: Sequence[int], names: Sequence[str] | None) -> str:
    """Classes for people, by name where there are names; of many the first."""
    named = [f"class {number}" if names is None else f"{names[number]} (class {number})" for number in numbers]
    return ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")


def _warn_of_twins(names: Sequence[str]) -> None:
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault("".join(name.split()).casefold(), name)
        if other != name:
            logger.warning("the classes %r and %r differ in case or spaces only; they are trained as two", other, name)

"""Classes that data do not hold: what a network neither learns nor is tested on is said before it is trained."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

from cnnmod.training.data import Data
from cnnmod.training.images import Images
from cnnmod.training.processes import all_processes
from cnnmod.training.recipe import Task
from cnnmod.training.scene_images import SceneDataset

logger = logging.getLogger("cnnmod")

_QUIET_S = 2  # seconds before progress is shown
_WHAT: dict[Task, str] = {"classification": "image", "segmentation": "pixel", "detection": "box"}
_SEEN: dict[Task, str] = {"segmentation": "the masks have the values", "detection": "there are boxes of"}
_checked: WeakValueDictionary[int, Data] = WeakValueDictionary()  # several runs may be trained on the same data

Counts = Counter[tuple[int | str, int]]  # of each value or name that labels have, and its class


def check_classes(data: Data, task: Task, progress: Callable[[str, int, int], None]) -> None:
    """Warn (logger `cnnmod`) of classes without any image, pixel or box in a split; all labels are read for it.

    In several processes the main one does this.

    Args:
        data: The images, opened.
        task: What is trained.
        progress: Called with what is read, how much of it is, and how much there is, if it takes seconds.

    Raises:
        ValueError: There is one class, or a split has no pixel or box of any; or a mask or annotation is broken.
    """
    if not all_processes().is_main_process or _checked.get(id(data)) is data:
        return
    if data.num_classes < 2:
        raise ValueError(f"the data have one class, {name_classes([0], data.classes)}; there is nothing to tell apart")
    _warn_of_twins(data.classes or ())
    for split, images in {"training": data.train, "validation": data.validation, "test": data.test}.items():
        if images is None:
            continue
        found = _count(images, lambda done, total, split=split: progress(f"reading {split} labels", done, total))
        first = 1 if task == "detection" else 0  # its background has no boxes
        missing = sorted({*range(first, data.num_classes)} - {label for _, label in found})
        there = ", ".join(f"{value} (ignored)" if label >= data.num_classes else str(value) for value, label in found)
        seen = f"; {_SEEN[task]} {there}" if task in _SEEN and there else ""
        if len(missing) == data.num_classes - first:
            raise ValueError(f"no {split} {_WHAT[task]} is of any class{seen}")
        if missing:
            logger.warning("no %s %s is of %s%s", split, _WHAT[task], name_classes(missing, data.classes), seen)
    _checked[id(data)] = data


def name_classes(numbers: Sequence[int], names: Sequence[str] | None) -> str:
    """Classes for people, by name where there are names; of many the first."""
    named = [f"class {number}" if names is None else f"{names[number]} (class {number})" for number in numbers]
    return ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")


def _count(images: Images, progress: Callable[[int, int], None]) -> Counts:
    dataset: Any = getattr(images, "dataset", images)
    if not isinstance(dataset, SceneDataset):
        return Counter((label, label) for label in dataset.labels.tolist())
    found: Counts = Counter()
    started, shown = time.monotonic(), False
    pool = ThreadPoolExecutor()
    try:
        for done, counts in enumerate(pool.map(dataset.count, range(len(dataset))), 1):
            found.update(counts)
            shown = shown or time.monotonic() - started > _QUIET_S
            if shown:
                progress(done, len(dataset))
    finally:
        pool.shutdown(cancel_futures=True)
    return Counter(dict(sorted(found.items(), key=lambda item: item[0][1])))


def _warn_of_twins(names: Sequence[str]) -> None:
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault("".join(name.split()).casefold(), name)
        if other != name:
            logger.warning("the classes %r and %r differ in case or spaces only; they are trained as two", other, name)

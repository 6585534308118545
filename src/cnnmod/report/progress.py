"""Progress bars for what takes longer than a few seconds; on standard error, so that output can be piped."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Update(Protocol):
    def __call__(self, what: str, done: int, total: int, rate: str = "") -> None: ...


@contextmanager
def progress_bars(shown: bool = True) -> Iterator[Update]:
    """A function `(what, done, total, rate)` that keeps one bar for each `what`; `rate` is a text beside it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    columns += (TextColumn("{task.fields[rate]}"),)
    bars = Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, disable=not shown
    )  # no thread beside a timing
    tasks: dict[str, TaskID] = {}

    def update(what: str, done: int, total: int, rate: str = "") -> None:
        bars.start()
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, rate=rate)
        bars.update(tasks[what], completed=done, rate=rate, refresh=True)

    try:
        yield update
    finally:
        if tasks:
            bars.stop()

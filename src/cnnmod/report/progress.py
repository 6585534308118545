"""Progress bars for what takes longer than a few seconds; on standard error, so that output can be piped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A function `(what, done, total)` that keeps one bar for each `what`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Progress(*columns, console=Console(stderr=True), auto_refresh=False)  # no thread beside a timing
    tasks: dict[str, TaskID] = {}

    def update(what: str, done: int, total: int) -> None:
        bars.start()
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, refresh=True)

    try:
        yield update
    finally:
        if tasks:
            bars.stop()

"""Progress bars for tasks of more than a few seconds. They are on standard error, so that output can be piped."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_REDRAW_S = 0.1  # drawing takes milliseconds, as long as the step of a small network


class Update(Protocol):
    def __call__(self, what: str, done: int, total: int, rate: str = "") -> None: ...


@contextmanager
def progress_bars(shown: bool = True) -> Iterator[Update]:
    """Return a function `(what, done, total, rate)` that updates one bar for each `what`. `rate` is shown beside it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    columns += (TextColumn("{task.fields[rate]}"),)
    # Without auto_refresh, no thread runs during a timing.
    bars = Progress(*columns, console=Console(stderr=True), auto_refresh=False, disable=not shown)
    tasks: dict[str, TaskID] = {}
    drawn = 0.0

    def update(what: str, done: int, total: int, rate: str = "") -> None:
        nonlocal drawn
        bars.start()
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, rate=rate)
        now = time.monotonic()
        draw = done == total or now - drawn > _REDRAW_S
        drawn = now if draw else drawn
        bars.update(tasks[what], completed=done, rate=rate, refresh=draw)

    try:
        yield update
    except BaseException:
        bars.console.quiet = not bars.console.is_terminal  # in a file or pipe, the error is the only line
        raise
    finally:
        if tasks:
            bars.stop()

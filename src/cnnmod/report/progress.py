"""Progress bars for tasks of more than a few seconds. They use standard error, so that the output can be piped."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_REDRAW_S = 0.1  # drawing takes milliseconds, like a step of a small network


class Update(Protocol):
    def __call__(self, description: str, done: int, total: int, rate: str = "") -> None: ...


@contextmanager
def progress_bars(shown: bool = True) -> Iterator[Update]:
    """Return a function (description, done, total, rate) that updates one bar for each description."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    columns += (TextColumn("{task.fields[rate]}"),)
    # auto_refresh would run a thread, which would disturb timings.
    bars = Progress(*columns, console=Console(stderr=True), auto_refresh=False, disable=not shown)
    tasks: dict[str, TaskID] = {}
    drawn = 0.0

    def update(description: str, done: int, total: int, rate: str = "") -> None:
        nonlocal drawn
        bars.start()
        if description not in tasks:
            tasks[description] = bars.add_task(description, total=total, rate=rate)
        now = time.monotonic()
        draw = done == total or now - drawn > _REDRAW_S
        drawn = now if draw else drawn
        bars.update(tasks[description], completed=done, rate=rate, refresh=draw)

    try:
        yield update
    except BaseException:
        bars.console.quiet = not bars.console.is_terminal  # in a file or pipe, the error is the only line
        raise
    finally:
        if tasks:
            bars.stop()

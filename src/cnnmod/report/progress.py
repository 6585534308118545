"""Progress bars for tasks of more than a few seconds. They use standard error, so that the output can be piped.

In a notebook, they are one output that is updated. rich's own bars need ipywidgets there.
"""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

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
    console = Console(stderr=True, force_jupyter=False)
    # auto_refresh would run a thread, which would disturb timings.
    bars = Progress(*columns, console=console, auto_refresh=False, disable=not shown)
    notebook = _NotebookOutput(bars) if shown and Console().is_jupyter else None
    tasks: dict[str, TaskID] = {}
    drawn = 0.0

    def update(description: str, done: int, total: int, rate: str = "") -> None:
        nonlocal drawn
        if notebook is None:
            bars.start()
        if description not in tasks:
            tasks[description] = bars.add_task(description, total=total, rate=rate)
        now = time.monotonic()
        draw = done == total or now - drawn > _REDRAW_S
        drawn = now if draw else drawn
        bars.update(tasks[description], completed=done, rate=rate, refresh=draw and notebook is None)
        if draw and notebook is not None:
            notebook.draw()

    try:
        yield update
    except BaseException:  # including KeyboardInterrupt
        bars.console.quiet = not bars.console.is_terminal  # in a file or pipe, the error is the only line
        raise
    finally:
        if tasks and notebook is None:
            bars.stop()


class _NotebookOutput:
    """The bars as text in one output of a notebook cell."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._handle: Any = None

    def draw(self) -> None:
        from IPython.display import display  # IPython runs the notebook

        console = Console(file=io.StringIO(), force_jupyter=False, color_system=None, width=100)
        with console.capture() as text:
            console.print(self._bars.get_renderable())
        output = {"text/plain": text.get().rstrip()}
        if self._handle is None:
            self._handle = display(output, raw=True, display_id=True)
        else:
            self._handle.update(output, raw=True)

"""Check that a broken file is refused with a one-line error, and that no other file changes."""

import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cnnmod.cli import run

SEEDS = [pytest.param(range(10), id="10"), pytest.param(range(1000), id="1000", marks=pytest.mark.slow)]


def fault_of(call: Callable[[], Any]) -> str | None:
    """Return an error of a function on a broken file that is not a one-line `ValueError` or `OSError`, or `None`."""
    try:
        call()
    except (ValueError, OSError) as error:
        return None if str(error).strip() and "\n" not in str(error) else f"no line: {error!r}"
    except Exception as error:  # any exception is the result of the check
        return repr(error)[:500]
    return None


def fault_of_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """Return the fault of a command on a broken file: an exception, or not one line and exit code 2. `None` without."""
    path = [*sys.path]
    capsys.readouterr()
    try:
        run(arguments)
    except SystemExit as stop:
        out, err = capsys.readouterr()
        fine = stop.code == 2 and out == "" and err.startswith("cnnmod: ") and err.count("\n") == 1
        return None if fine else f"exit code {stop.code}, {out!r}, {err!r}"
    except Exception as error:  # a command must not raise
        return repr(error)[:500]
    finally:
        sys.path[:] = path  # run appends the current folder
    return None


@contextmanager
def little_memory() -> Iterator[None]:
    """Limit the memory to one GiB more than is used, since a broken number can request any size."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Check that no file in a folder changes."""
    before = _files(folder)
    yield
    assert _files(folder) == before


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    found = {str(path): path.lstat() for path in folder.rglob("*")}
    return {path: (one.st_size, one.st_mtime_ns) for path, one in found.items()}

"""Check how a command handles a broken file: it succeeds, or prints one line and exits with code 2."""

import hashlib
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cnnmod.cli import run

INTERRUPTED = 130
_LIMIT_S = 60
SEEDS = [
    pytest.param(range(5), id="5"),
    *(pytest.param(range(start, start + 199), id=f"{start}", marks=pytest.mark.slow) for start in range(5, 1000, 199)),
]


@contextmanager
def trial(seed: int, folder: Path) -> Iterator[Path]:
    """Create a folder for one seed, and delete it at the end. The error of a failed assertion names the seed."""
    folder.mkdir()
    try:
        yield folder
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    shutil.rmtree(folder)


def outcome(arguments: list[str], capsys, watched: Path, but: Path | None = None) -> int:
    """Run a command, check its output and that files in `watched` outside of `but` are unchanged. Return its exit code.

    A command that runs longer than a limit, for example because the file is valid, is interrupted.
    """
    before = _content(watched, but)
    capsys.readouterr()
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(_LIMIT_S)
    code: object = 0
    try:
        run(arguments)
    except SystemExit as stop:
        code = stop.code
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    err = capsys.readouterr().err
    assert isinstance(code, int)
    assert code in (0, 2, INTERRUPTED)
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("cnnmod: ")]
    assert errors == (err.splitlines()[-1:] if code == 2 else [])
    assert _content(watched, but) == before
    return code


def _content(folder: Path, but: Path | None) -> dict[Path, str]:
    paths = [path for path in folder.rglob("*") if but is None or not path.is_relative_to(but)]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths}

"""A folder that one run at a time writes into."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from cnnmod.training.processes import all_processes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
_held: set[Path] = set()  # fcntl's locks keep other processes out, not this one


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made if need be, and removed again if nothing was written into it.

    Of the processes of a run the main one does this, the others nothing. The kernel's lock on a file ends with its
    process, however that ends, and forked processes do not inherit it. The file names process and host: on some network
    file systems a host does not see the locks of others, so a file that another host left behind counts as a run that
    goes on.

    Raises:
        OSError: The folder cannot be made or written to.
        ValueError: Another run is going on in it, or was on another host and did not end in order.
    """
    if not all_processes().is_main_process:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / LOCK
    try:
        file = _lock(path)
        _held.add(path)
        try:
            yield
        finally:
            if _is_of(path, file):  # nobody has deleted it, as our errors advise
                path.unlink()
            os.close(file)
            _held.discard(path)
    finally:
        for path in made:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _lock(path: Path) -> int:
    """The lock's file, open: to close it gives the lock back."""
    if path in _held:
        raise ValueError(f"{path.parent} is in use by this process")
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run has ended in between, and has removed the folder
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            _check_free(path, file)
            if _is_of(path, file):
                os.ftruncate(file, 0)
                os.pwrite(file, f"{os.getpid()} {socket.gethostname()} {_kernel()}\n".encode(), 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # another run has ended in between, and has removed this file


def _is_of(path: Path, file: int) -> bool:
    """Whether an open file is the one of this path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _check_free(path: Path, file: int) -> None:
    pid, host, kernel = [*os.pread(file, 1000, 0).decode(errors="replace").split(), "", "", ""][:3]
    here = not host or host == socket.gethostname() or kernel == _kernel()  # containers have names of their own
    taken = _take(file)
    running = pid.isdecimal() and len(pid) < 10 and psutil.pid_exists(int(pid))
    if taken is False or (taken is None and here and running):
        raise ValueError(f"{path.parent} is in use by process {pid or '?'} on {host or 'this host'}")
    if not here:
        raise ValueError(
            f"{path.parent} is in use by process {pid} on {host}, or was when that ended; if it no longer runs, "
            f"delete {path}"
        )


def _take(file: int) -> bool | None:
    """Whether the lock was free; `None` where there are no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without them
        return None
    return True


def _kernel() -> str:
    """The running kernel's name, the same in all containers of a machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "?"

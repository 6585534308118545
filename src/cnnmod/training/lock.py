"""Lock a folder so that only one run at a time writes to it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from cnnmod.records.files import make_folder
from cnnmod.training.processes import all_processes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
_held: set[Path] = set()  # fcntl locks do not exclude the process that holds them


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Lock a folder for one run. The folder is created if necessary, and removed at the end if it is empty.

    Only the main process of a run takes the lock. It is a file lock of the kernel, which is released when the process
    ends and is not inherited by forked processes. The lock file contains the process ID and the host. On some network
    file systems, a host does not see the locks of other hosts. Therefore a lock file of another host is treated as a
    running process.

    Raises:
        OSError: If the folder cannot be created or written to.
        ValueError: If another run uses the folder, or a run on another host was killed in it.
    """
    if not all_processes().is_main_process:
        yield
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    path = folder.resolve() / LOCK
    try:
        file = _lock(path)
        _held.add(path)
        try:
            yield
        finally:
            if _is_same_file(path, file):  # a user may have deleted the file, as the error below advises
                path.unlink()
            os.close(file)
            _held.discard(path)
    finally:
        for path in created:
            with suppress(OSError):  # not empty
                path.rmdir()


def _lock(path: Path) -> int:
    """Lock the file and return its descriptor. Closing the descriptor releases the lock."""
    if path in _held:
        raise ValueError(f"{path.parent} is in use by this process")
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run ended in the meantime and removed the folder
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            _check_free(path, file)
            if _is_same_file(path, file):
                os.ftruncate(file, 0)
                os.pwrite(file, f"{os.getpid()} {socket.gethostname()} {_kernel()}\n".encode(), 0)
                return file
        except BaseException:  # including KeyboardInterrupt
            os.close(file)
            raise
        os.close(file)  # another run ended in the meantime and removed this file


def _is_same_file(path: Path, file: int) -> bool:
    """Whether a file descriptor refers to the file at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _check_free(path: Path, file: int) -> None:
    pid, host, kernel = [*os.pread(file, 1000, 0).decode(errors="replace").split(), "", "", ""][:3]
    same_host = not host or host == socket.gethostname() or kernel == _kernel()  # host names of containers differ
    acquired = _acquire(file)
    running = pid.isdecimal() and len(pid) < 10 and psutil.pid_exists(int(pid))
    if acquired is False or (acquired is None and same_host and running):
        raise ValueError(f"{path.parent} is in use by process {pid or '?'} on {host or 'this host'}")
    if not same_host:
        raise ValueError(
            f"{path.parent} is in use by process {pid} on {host}, or that process was killed; if it is not running, "
            f"delete {path}"
        )


def _acquire(file: int) -> bool | None:
    """Try to lock a file. Return whether it was free, or `None` if file locks are not supported."""
    if fcntl is None:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # the file system does not support locks
        return None
    return True


def _kernel() -> str:
    """Return the boot ID of the kernel, which is the same in all containers of a machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "?"

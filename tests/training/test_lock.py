import os
import signal
import socket
import subprocess
import sys

import pytest

from cnnmod.training import lock
from cnnmod.training.lock import LOCK, hold

HOLDER = """
import os, sys, time
from pathlib import Path
from cnnmod.training.lock import hold
with hold(Path(sys.argv[1])):
    if sys.argv[2] == "fork" and os.fork() == 0:
        print(os.getpid(), flush=True)
    elif sys.argv[2] == "alone":
        print(os.getpid(), flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """A function that starts a process holding the folder `run`, and returns the process and the printed process ID."""
    started = []

    def start(how: str = "alone") -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), how]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        printed = int(process.stdout.readline())
        started.extend({process.pid, printed})
        process.stdout.close()
        return process, printed

    yield start
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.slow
def test_second_process_is_refused_until_the_first_ends(holder, tmp_path):
    process, _ = holder()
    with pytest.raises(ValueError, match=rf"run is in use by process {process.pid} on {socket.gethostname()}$"):
        hold(tmp_path / "run").__enter__()
    process.kill()
    process.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with hold(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / LOCK).read_text()
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.slow
def test_forked_process_does_not_inherit_the_lock(holder, tmp_path):
    process, child = holder("fork")
    process.kill()
    process.wait()
    os.kill(child, 0)  # the child is running
    with hold(tmp_path / "run"):
        pass


def test_process_cannot_lock_a_folder_twice(tmp_path):
    with hold(tmp_path), pytest.raises(ValueError, match="is in use by this process"), hold(tmp_path):
        pass
    with hold(tmp_path), hold(tmp_path / "inner"):
        pass


class TestStaleLocks:
    def test_lock_of_another_host_is_respected(self, tmp_path):
        (tmp_path / LOCK).write_text("123 elsewhere kernel\n")
        with pytest.raises(
            ValueError,
            match=rf"in use by process 123 on elsewhere, or that process was killed; .*delete {tmp_path}/{LOCK}",
        ):
            hold(tmp_path).__enter__()
        (tmp_path / LOCK).unlink()
        with hold(tmp_path):
            pass

    @pytest.mark.parametrize("kernel", ["the same", "another"])
    def test_stale_lock_of_this_machine_is_ignored(self, kernel, tmp_path):
        """The lock is from a container with another host name, or from before a reboot."""
        host, name = ("3f2a", lock._kernel()) if kernel == "the same" else (socket.gethostname(), "kernel")
        (tmp_path / LOCK).write_text(f"{os.getpid()} {host} {name}\n")
        with hold(tmp_path):
            pass

    @pytest.mark.parametrize("content", [b"", b"12", b"\xff\0 \n"])
    def test_incomplete_lock_file_is_ignored(self, content, tmp_path):
        (tmp_path / LOCK).write_bytes(content)
        with hold(tmp_path):
            pass

    def test_created_folder_is_removed_if_empty(self, tmp_path):
        with hold(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()
        assert not list(tmp_path.iterdir())
        with hold(tmp_path / "a" / "b"):
            (tmp_path / "a" / "b" / "file").touch()
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]
        (tmp_path / "empty").mkdir()
        with hold(tmp_path / "empty"):
            pass
        assert (tmp_path / "empty").is_dir()

    def test_folder_may_be_deleted_meanwhile(self, tmp_path):
        with hold(tmp_path / "run"):
            (tmp_path / "run" / LOCK).unlink()
            (tmp_path / "run").rmdir()


def test_without_file_locks_a_running_process_is_respected(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    running = subprocess.Popen(["sleep", "100"])
    (tmp_path / LOCK).write_text(f"{running.pid} {socket.gethostname()} kernel\n")
    try:
        with pytest.raises(ValueError, match=f"in use by process {running.pid}"):
            hold(tmp_path).__enter__()
    finally:
        running.kill()
        running.wait()
    with hold(tmp_path):
        pass


def test_folder_that_cannot_be_created_raises(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file is a file, not a folder"):
        hold(tmp_path / "file").__enter__()
    with pytest.raises(NotADirectoryError, match="file"):
        hold(tmp_path / "file" / "run").__enter__()

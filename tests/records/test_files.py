import os
import threading

import pytest

from cnnmod.records.files import check_writable, replace, write_json, write_whole


def test_missing_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        write_whole(tmp_path / "nowhere" / "file", "x")


def test_existing_file_is_kept_after_a_failed_write(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, "old")

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "something new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nan_is_not_written_as_json(tmp_path):
    write_json(tmp_path / "file", {"loss": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"loss": float("nan")})
    assert (tmp_path / "file").read_text() == '{\n "loss": 1.5\n}\n'


def test_check_writable_leaves_files_unchanged(tmp_path):
    check_writable(tmp_path / "file")
    assert not [*tmp_path.iterdir()]
    (tmp_path / "file").write_text("old")
    check_writable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"
    with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
        check_writable(tmp_path)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_permissions_are_kept(tmp_path, mode):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == mode


def test_new_file_has_default_permissions(tmp_path):
    (tmp_path / "other").touch()
    write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_owner_is_kept(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 12345, 54321)
    path.chmod(0o600)
    write_whole(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (12345, 54321, 0o600)


@pytest.mark.parametrize("links", [1, 2])
@pytest.mark.parametrize("exists", [True, False])
def test_symbolic_link_is_kept(tmp_path, links, exists):
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "file"
    if exists:
        target.write_text("old")
        target.chmod(0o600)
    path = tmp_path / "link"
    path.symlink_to("there/file")
    if links == 2:
        (tmp_path / "second").symlink_to("link")
        path = tmp_path / "second"
    check_writable(path)
    write_whole(path, "new")
    assert path.is_symlink()
    assert target.read_text() == path.read_text() == "new"
    assert [*target.parent.iterdir()] == [target]
    assert not exists or target.stat().st_mode & 0o777 == 0o600


def test_invalid_links_raise(tmp_path):
    (tmp_path / "nowhere").symlink_to("missing/file")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to a folder").symlink_to("folder")
    for name, error in (("nowhere", FileNotFoundError), ("circle", OSError), ("to a folder", IsADirectoryError)):
        for action in (lambda path: write_whole(path, "new"), check_writable):
            with pytest.raises(error):
                action(tmp_path / name)
        assert (tmp_path / name).is_symlink()
    assert len([*tmp_path.iterdir()]) == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_pipes_and_devices_are_written_to_directly(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    check_writable(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "new")
    reader.join()
    assert read == ["new"]
    assert pipe.is_fifo()
    (tmp_path / "null").symlink_to("/dev/null")
    write_whole(tmp_path / "null", "new")
    assert (tmp_path / "null").is_symlink()
    assert (tmp_path / "null").is_char_device()


def test_replace_keeps_permissions_and_links(tmp_path):
    """`replace` is for files that other libraries write."""
    target, path, written = tmp_path / "target", tmp_path / "link", tmp_path / "written"
    target.write_text("old")
    target.chmod(0o600)
    path.symlink_to("target")
    written.write_text("new")
    replace(written, path)
    assert path.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert not written.exists()

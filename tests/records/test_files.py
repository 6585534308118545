import pytest

from cnnmod.records.files import check_writable, write_whole


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        write_whole(tmp_path / "nowhere" / "file", "x")


def test_what_was_there_survives_a_failure(tmp_path, monkeypatch):
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


def test_check_writable(tmp_path):
    check_writable(tmp_path / "file")
    assert not [*tmp_path.iterdir()]
    (tmp_path / "file").write_text("old")
    check_writable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"
    with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
        check_writable(tmp_path)

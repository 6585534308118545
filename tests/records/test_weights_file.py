import re

import pytest

from cnnmod.records.weights_file import read_start


def test_returns_the_first_bytes(tmp_path):
    (tmp_path / "a.pth").write_bytes(bytes(1000))
    assert read_start(tmp_path / "a.pth") == bytes(256)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n<!DOCTYPE html>", "is a web page (HTML), not a file of weights; download the file itself"),
        ("<html>", "is a web page (HTML), not a file of weights; download the file itself"),
        ("version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not a file of weights; fetch the"),
        ("", "is empty"),
    ],
)
def test_other_files_raise_one_line_that_says_what_they_are(content, message, tmp_path):
    path = tmp_path / "a.pth"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"^{re.escape(f'{path} {message}')}[^\n]*$"):
        read_start(path)


def test_folder_raises_an_error_that_names_a_file_in_it(tmp_path):
    with pytest.raises(IsADirectoryError, match=rf"^{tmp_path} is a folder, not a file of weights$"):
        read_start(tmp_path)
    for name in ("config.json", "model.safetensors", "optimizer.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        IsADirectoryError,
        match=rf"^{tmp_path} is a folder, not a file of weights; name a file in it, such as {tmp_path}/model.safetenso",
    ):
        read_start(tmp_path)


@pytest.mark.parametrize(("suffix", "content"), [(".onnx", b"\x08\x0a"), (".xml", b"<?xml"), (".pt2", b"PK")])
def test_exported_networks_are_named_as_such(suffix, content, tmp_path):
    path = tmp_path / f"network{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is an exported network, not a file of weights; name the file that was expor"):
        read_start(path)

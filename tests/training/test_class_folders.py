import logging
import shutil

import pytest

from cnnmod.training.layouts import find_sources
from pictures import classes, picture


def test_finds_class_folders(tmp_path):
    for split in ("train", "val"):
        classes(tmp_path, split, ["cat", "dog"])
    sources = find_sources(tmp_path)
    assert sources.classes == ("cat", "dog")
    assert list(sources.splits) == ["train", "validation"]
    train = sources.splits["train"]
    assert list(train.labels) == [0, 0, 1, 1]
    assert train.open(3)[0].getpixel((0, 0)) == (50, 1, 0)
    assert train.name(3).endswith("dog/1.png")


def test_hidden_files_and_folders_are_ignored(tmp_path, caplog):
    classes(tmp_path, "train", ["cat", "dog"])
    (tmp_path / "train" / "cat" / "._0.png").write_bytes(b"macOS")
    (tmp_path / "train" / ".DS_Store").touch()
    for folder in (".ipynb_checkpoints", "cat/.ipynb_checkpoints"):
        (tmp_path / "train" / folder).mkdir()
        shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / "train" / folder / "0-checkpoint.png")
    with caplog.at_level(logging.WARNING, "cnnmod"):
        sources = find_sources(tmp_path)
    assert sources.classes == ("cat", "dog")
    assert len(sources.splits["train"]) == 4
    assert not caplog.records


def test_hidden_parent_folders_are_accepted(tmp_path):
    classes(tmp_path / ".cache" / "data", "train", ["cat", "dog"])
    assert len(find_sources(tmp_path / ".cache" / "data").splits["train"]) == 4


def test_all_image_suffixes_are_read_and_other_files_are_logged(tmp_path, caplog):
    classes(tmp_path, "train", ["cat", "dog"])
    for name in ("a.JPG", "b.tif", "c.TIFF", "d.gif", "e.webp", "f.bmp", "inner/g.jpeg"):
        (tmp_path / "train" / "cat" / name).parent.mkdir(exist_ok=True)
        picture((1, 2, 3)).save(tmp_path / "train" / "cat" / name)
    (tmp_path / "train" / "dog" / "notes.txt").touch()
    with caplog.at_level(logging.WARNING, "cnnmod"):
        train = find_sources(tmp_path).splits["train"]
    assert list(train.labels) == [0] * 9 + [1] * 2
    assert {train.open(number)[0].size for number in range(11)} == {(8, 8)}
    first = tmp_path / "train" / "dog" / "notes.txt"
    assert f"ignoring 1 files in {tmp_path}/train that are not images, such as {first}" in caplog.messages


def test_class_without_images_raises(tmp_path):
    classes(tmp_path, "train", ["cat", "dog"])
    (tmp_path / "train" / "eel").mkdir()
    with pytest.raises(
        ValueError, match=r"train: Found no valid file for the classes eel\.; the image suffixes are \.jpg, "
    ):
        find_sources(tmp_path)


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["cat", "eel"], "the first difference is 'dog' and 'eel'"),
        (["cat"], r"\(2 and 1\): the first difference is 'dog' and no class"),
        (["cat", "dog", "eel"], "the first difference is no class and 'eel'"),
        (["ant", "cat", "dog"], "the first difference is 'cat' and 'ant'"),
    ],
)
def test_splits_with_different_classes_raise(names, error, tmp_path):
    classes(tmp_path, "train", ["cat", "dog"])
    classes(tmp_path, "val", names)
    with pytest.raises(ValueError, match=rf"/train and .*/val have different classes .*{error}"):
        find_sources(tmp_path)


def test_val_next_to_valid_raises(tmp_path):
    for split in ("train", "val", "valid"):
        classes(tmp_path, split, ["cat", "dog"])
    with pytest.raises(ValueError, match=r"/val and .*/valid are both the validation split"):
        find_sources(tmp_path)


def test_error_names_the_broken_image(tmp_path):
    classes(tmp_path, "train", ["cat", "dog"])
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"no image")
    train = find_sources(tmp_path).splits["train"]
    with pytest.raises(ValueError, match=r"/train/cat/1\.png is broken: it is not an image of the format"):
        train.open(1)
    (tmp_path / "train" / "cat" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"/train/cat/1\.png cannot be read: No such file or directory"):
        train.open(1)

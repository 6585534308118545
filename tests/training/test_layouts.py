import pytest

from cnnmod.training.layouts import find_sources
from pictures import classes, parquet, shards


def test_torchvision_cifar_checksums_are_verified(tmp_path):
    """The test data does not have the checksums of CIFAR."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match="Dataset not found or corrupted"):
        find_sources(tmp_path)


def test_missing_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the data folder .*nowhere does not exist"):
        find_sources(tmp_path / "nowhere")


def test_unsupported_layout_raises(tmp_path):
    with pytest.raises(
        ValueError, match=r"found no images in .*, which contains nothing; the supported layouts are class"
    ):
        find_sources(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden").touch()
    with pytest.raises(ValueError, match=r"which contains notes\.txt;"):
        find_sources(tmp_path)


@pytest.mark.parametrize("second", ["parquet", "shards", "cifar"])
def test_several_layouts_raise(second, tmp_path):
    classes(tmp_path, "train", ["cat", "dog"])
    if second == "parquet":
        parquet(tmp_path / "data" / "train-0.parquet", [0, 1])
    elif second == "shards":
        shards(tmp_path, [2])
    else:
        (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match=r"contains .* and class folders; give a folder with only one of them"):
        find_sources(tmp_path)


def test_both_torchvision_cifar_folders_raise(tmp_path):
    for name in ("cifar-10-batches-py", "cifar-100-python"):
        (tmp_path / name).mkdir()
    with pytest.raises(
        ValueError, match=r"contains cifar-10-batches-py and cifar-100-python; give a folder with only one"
    ):
        find_sources(tmp_path)

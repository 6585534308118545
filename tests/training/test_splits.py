from pathlib import Path

import pytest

from cnnmod.training.splits import files_by_split, folders_by_split


def files(folder: Path, *names: str) -> dict[str, list[str]]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    found = files_by_split(folder, [".tar"])
    return {split: [str(path.relative_to(folder)) for path in paths] for split, paths in found.items()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train-0.tar", "train-1.tar", "val-0.tar"], {"train": [0, 1], "validation": [2]}),
        (["train/0.tar", "train/1.tar", "Validation/0.tar"], {"train": [0, 1], "validation": [2]}),
        (["data/train-0.tar", "data/test-0.tar"], {"train": [0], "test": [1]}),
        (["default/train/0.tar", "default/test/0.tar"], {"train": [0], "test": [1]}),
        (["train_shards/0.tar", "test-shards/0.tar"], {"train": [0], "test": [1]}),
        (["train.tar", "test/0.tar"], {"train": [0], "test": [1]}),
        (["testdata/train-0.tar", "testdata/val-0.tar"], {"train": [0], "validation": [1]}),
        (["train/._0.tar", "train/0.tar", ".train/1.tar", "._train-2.tar"], {"train": [1]}),
        (["other.tar", "data/other.tar"], {}),
    ],
)
def test_files_are_grouped_by_split(names, expected, tmp_path):
    assert files(tmp_path, *names) == {split: [names[n] for n in numbers] for split, numbers in expected.items()}


@pytest.mark.parametrize(
    "names",
    [
        ["val-0.tar", "valid-0.tar"],
        ["validation/0.tar", "val/0.tar"],
        ["training-0.tar", "train-0.tar"],
        ["train-0.tar", "train/0.tar"],
    ],
)
def test_two_names_for_one_split_raise(names, tmp_path):
    with pytest.raises(ValueError, match=r"are both of the (validation|train) split; keep files"):
        files(tmp_path, *names)


@pytest.mark.parametrize(
    "names",
    [["plain/train-0.tar", "other/test-0.tar"], ["train-0.tar", "data/test-0.tar"], ["a/train.tar", "b/train.tar"]],
)
def test_files_of_two_data_sets_raise(names, tmp_path):
    with pytest.raises(ValueError, match=r"\.tar and .*\.tar "):
        files(tmp_path, *names)


def test_folders_are_grouped_by_split(tmp_path):
    for name in ("Train/a", "val/a", "test", ".valid/a", "validation/.ipynb_checkpoints", "other/a"):
        (tmp_path / name).mkdir(parents=True)
    assert folders_by_split(tmp_path) == {"train": tmp_path / "Train", "validation": tmp_path / "val"}
    (tmp_path / "valid" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"val and .*valid are both the validation split; keep one of them"):
        folders_by_split(tmp_path)

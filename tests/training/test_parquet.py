import pickle

import pyarrow
import pytest
from pyarrow.parquet import write_table

from cnnmod.training.layouts import find_sources
from pictures import encoded, parquet, picture


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_reads_files_named_as_on_the_hub(tmp_path):
    for name, count in (("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("test-00000-of-00001", 2)):
        parquet(tmp_path / "data" / f"{name}.parquet", [number % 2 for number in range(count)], ["a", "b"])
    done = []
    sources = find_sources(tmp_path, lambda *values: done.append(values))
    assert done[2:] == [("reading train files", 2, 2), ("reading test files", 0, 1), ("reading test files", 1, 1)]
    assert sources.classes == ("a", "b")
    assert sorted(sources.splits) == ["test", "train"]
    train = pickle.loads(pickle.dumps(sources.splits["train"]))  # worker processes get a pickled copy
    assert (len(train), list(train.labels)) == (5, [0, 1, 0, 0, 1])
    assert [train.open(number, 1)[0].getpixel((0, 0)) for number in range(5)] == [0, 1, 2, 0, 1]
    assert train.name(4) == f"{tmp_path}/data/train-00001-of-00002.parquet, row 1"


def test_reads_files_written_by_datasets(tmp_path):
    import datasets

    rows = {"image": [picture((n, n, n)) for n in range(3)], "label": [0, 1, 0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    train = find_sources(tmp_path).splits["train"]
    assert [train.open(number, 1)[0].getpixel((0, 0)) for number in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
def test_reads_images_in_binary_columns(kind, tmp_path):
    images = pyarrow.array([encoded(picture((n, n, n))) for n in range(3)], kind)
    parquet(tmp_path / "train.parquet", [0, 1, 0], images=images, column="img")
    train = find_sources(tmp_path).splits["train"]
    assert [train.open(number, 1)[0].getpixel((0, 0)) for number in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary("int32", pyarrow.string())]
)
def test_string_labels_are_numbered_by_the_training_split(kind, tmp_path):
    parquet(tmp_path / "train-0.parquet", pyarrow.array(["dog", "eel"]).cast(kind))
    parquet(tmp_path / "train-1.parquet", pyarrow.array(["cat", "dog"]).cast(kind))
    parquet(tmp_path / "test.parquet", pyarrow.array(["eel"]).cast(kind))
    sources = find_sources(tmp_path)
    assert sources.classes == ("cat", "dog", "eel")
    assert list(sources.splits["train"].labels) == [1, 2, 0, 1]
    assert list(sources.splits["test"].labels) == [2]


def test_string_label_without_training_image_raises(tmp_path):
    parquet(tmp_path / "train.parquet", ["cat", "dog"])
    parquet(tmp_path / "test.parquet", ["dog", "Dog"])
    with pytest.raises(ValueError, match=r"test\.parquet, row 1 has the label 'Dog', which no training image has$"):
        find_sources(tmp_path)


@pytest.mark.parametrize("name", ["data[1]", "a b*c?"])
def test_folder_names_are_not_glob_patterns(name, tmp_path):
    parquet(tmp_path / name / "train.parquet", [0, 1])
    assert find_sources(tmp_path / name).splits["train"].open(1, 1)[0].getpixel((0, 0)) == 1


class TestDifferentClasses:
    @pytest.mark.parametrize("second", ["train-1", "test"])
    @pytest.mark.parametrize(
        ("names", "error"),
        [
            (
                ["b", "a"],
                r"\(2 and 2\): the first difference is 'a' and 'b'",
            ),
            (["a", "b", "c"], "the first difference is no class and 'c'"),
            (["a"], "the first difference is 'b' and no class"),
            (None, "names its classes but .* does not"),
        ],
    )
    def test_different_class_names_raise(self, names, error, second, tmp_path):
        parquet(tmp_path / "train-0.parquet", [0, 0], ["a", "b"])
        parquet(tmp_path / f"{second}.parquet", [0, 0], names)
        with pytest.raises(ValueError, match=error) as caught:
            find_sources(tmp_path)
        assert f"{second}.parquet" in str(caught.value)
        assert "train-0.parquet" in str(caught.value)

    def test_different_label_columns_raise(self, tmp_path):
        parquet(tmp_path / "train-0.parquet", [0, 1])
        parquet(tmp_path / "train-1.parquet", [0, 1], label="fine_label")
        with pytest.raises(ValueError, match=r"0\.parquet has its labels in the column label, .*parquet in fine_label"):
            find_sources(tmp_path)

    def test_string_and_integer_labels_raise(self, tmp_path):
        parquet(tmp_path / "train.parquet", ["a", "b"])
        parquet(tmp_path / "test.parquet", [0, 1])
        with pytest.raises(ValueError, match=r"train\.parquet has strings as labels, .*test\.parquet has integers"):
            find_sources(tmp_path)


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ([0, None, 1], r"row 1 has no label: it is null"),
        ([None, None], r"row 0 has no label: it is null"),
        (["a", "b", None], r"row 2 has no label: it is null"),
        ([0.0, 1.0], r"row 0 has the label 0\.0 of type double; labels must be integers"),
        ([True, False], r"row 0 has the label True of type bool; labels must be integers"),
        ([[0], [1]], r"row 0 has the label \[0\] of type list<.*>; labels must be integers"),
        ([b"a", b"b"], r"row 0 has the label b'a' of type binary; labels must be integers"),
    ],
)
def test_invalid_labels_raise(labels, error, tmp_path):
    parquet(tmp_path / "train.parquet", labels)
    with pytest.raises(ValueError, match=rf"/train\.parquet, {error}"):
        find_sources(tmp_path)


def test_error_names_the_missing_image(tmp_path):
    images = [{"bytes": encoded(picture(0)), "path": None}, {"bytes": None, "path": "1.png"}, None]
    parquet(tmp_path / "train.parquet", [0, 1, 1], images=images)
    train = find_sources(tmp_path).splits["train"]
    train.open(0)
    for row in (1, 2):
        with pytest.raises(ValueError, match=rf"train\.parquet, row {row} has no image$"):
            train.open(row)


def test_error_names_the_broken_image(tmp_path):
    parquet(tmp_path / "train.parquet", [0, 1], images=[encoded(picture(0)), b"no image"])
    with pytest.raises(ValueError, match=r"train\.parquet, row 1 is broken: it is not an image"):
        find_sources(tmp_path).splits["train"].open(1)


@pytest.mark.parametrize("images", [["0.png", "1.png"], [[0, 0], [1, 1]], [{"path": "a"}, {"path": "b"}]])
def test_unsupported_image_types_raise(images, tmp_path):
    parquet(tmp_path / "train.parquet", [0, 1], images=images)
    with pytest.raises(ValueError, match=r"train\.parquet has images of type .* in image; images must be binary"):
        find_sources(tmp_path)


def test_missing_columns_raise(tmp_path):
    write_table(pyarrow.table({"picture": [1], "label": [1]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="has the columns picture, label; it needs one of img, image and one of"):
        find_sources(tmp_path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda content: content[: len(content) // 2], "Parquet magic bytes not found"),
        (lambda content: content[:-300] + bytes(100) + content[-200:], "."),
        (lambda content: b"", "the file is empty"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (lambda content: content[:300] + bytes(200) + content[500:], "."),
    ],
)
def test_broken_files_raise(change, error, tmp_path, capfd):
    parquet(tmp_path / "train.parquet", [0, 1] * 20, ["a", "b"])
    content = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(change(content))
    with pytest.raises(ValueError, match=rf"/train\.parquet cannot be read as a Parquet file: .*{error}") as caught:
        find_sources(tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")

import numpy
import pytest
from PIL import Image

from cnnmod.training.sources import find_sources
from pictures import classes, encoded, picture, shard, shards


def test_class_folders(tmp_path):
    for split in ("train", "val"):
        classes(tmp_path, split, ["cat", "dog"])
    sources = find_sources(tmp_path)
    assert sources.classes == ("cat", "dog")
    assert list(sources.splits) == ["train", "validation"]
    train = sources.splits["train"]
    assert list(train.labels) == [0, 0, 1, 1]
    assert train.open(3).getpixel((0, 0)) == (50, 1, 0)
    assert train.name(3).endswith("dog/1.png")


def test_parquet_as_on_the_hub(tmp_path):
    import datasets

    for split, count in (("train", 5), ("test", 2)):
        rows = {"image": [{"bytes": encoded(picture((n, n, n))), "path": None} for n in range(count)]}
        rows["label"] = [number % 2 for number in range(count)]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    sources = find_sources(tmp_path)
    assert sources.classes == ("a", "b")
    train = sources.splits["train"]
    assert (len(train), list(train.labels)) == (5, [0, 1, 0, 1, 0])
    assert train.open(4).getpixel((0, 0)) == (4, 4, 4)


def test_shards(tmp_path):
    shards(tmp_path, [4, 1, 3])
    train = find_sources(tmp_path).splits["train"]
    assert list(train.labels) == [number % 3 for number in range(8)]
    assert [train.open(number).getpixel((0, 0)) for number in range(8)] == [(grey, grey, grey) for grey in range(8)]
    assert train.name(4) == f"{tmp_path}/train-001.tar: 0004.png"


def test_torchvisions_cifar(tmp_path):
    """In its own layout; the checksums are those of the real files, so these are refused."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match="Dataset not found or corrupted"):
        find_sources(tmp_path)


def test_broken_images_are_named(tmp_path):
    for split in ("train", "test"):
        classes(tmp_path, split, ["cat"])
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cat/1\.png is broken: cannot identify image file"):
        find_sources(tmp_path).splits["train"].open(1)
    whole = encoded(Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype="uint8")))
    (tmp_path / "train" / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cat/1\.png is broken: "):
        find_sources(tmp_path).splits["train"].open(1)


class TestWhatIsNotThere:
    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"the data folder .*nowhere does not exist"):
            find_sources(tmp_path / "nowhere")

    def test_nothing_known(self, tmp_path):
        with pytest.raises(ValueError, match=r"no images were found in .*, which holds nothing; accepted are class"):
            find_sources(tmp_path)
        (tmp_path / "notes.txt").touch()
        with pytest.raises(ValueError, match=r"which holds notes\.txt"):
            find_sources(tmp_path)

    def test_a_class_without_images(self, tmp_path):
        classes(tmp_path, "train", ["cat", "dog"])
        (tmp_path / "train" / "eel").mkdir()
        with pytest.raises(ValueError, match="Found no valid file for the classes eel"):
            find_sources(tmp_path)

    def test_splits_of_other_classes(self, tmp_path):
        classes(tmp_path, "train", ["cat", "dog"])
        classes(tmp_path, "val", ["cat", "eel"])
        with pytest.raises(ValueError, match=r"val has the classes \['cat', 'eel'\]…, another split \['cat', 'dog'\]…"):
            find_sources(tmp_path)

    def test_no_columns(self, tmp_path):
        import datasets

        datasets.Dataset.from_dict({"picture": [1], "label": [1]}).to_parquet(tmp_path / "train.parquet")
        with pytest.raises(ValueError, match="has the columns picture, label; it needs one of img, image and one of"):
            find_sources(tmp_path)

    @pytest.mark.parametrize(
        ("members", "error"),
        [
            ({"a.png": b"", "b.cls": b"1"}, "a has an image or a label"),
            ({"a.png": b"", "a.cls": b"cat"}, "is no shard of images"),
        ],
    )
    def test_shards_that_are_none(self, members, error, tmp_path):
        shard(tmp_path / "train-0.tar", members)
        with pytest.raises(ValueError, match=error):
            find_sources(tmp_path)

    def test_a_cut_off_shard(self, tmp_path):
        (tmp_path / "train-0.tar").write_bytes(b"\0" * 100)
        with pytest.raises(ValueError, match="is no shard of images"):
            find_sources(tmp_path)

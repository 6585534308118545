import logging

import pytest
import torch

from cnnmod.training.data import open_data
from cnnmod.training.recipes import recipe
from pictures import classes, encoded, parquet, picture, shard, shards

SMALL = ["image_size=8", "epochs=1", "batch_size=2"]


def test_digits_are_split_and_scaled():
    data = open_data("digits", recipe("digits"))
    (batch,) = data.test.batches([torch.arange(450)])
    assert batch.images.shape == (450, 1, 8, 8)
    assert batch.images.dtype == torch.float32
    assert (batch.images.min(), batch.images.max()) == (0, 1)
    assert torch.bincount(data.test.labels).min() >= 43
    (train,) = data.train.batches([torch.arange(1347)])
    seen = ({tuple(image.flatten().tolist()) for image in part.images} for part in (train, batch))
    assert not set.intersection(*seen)


def test_validation_images_are_not_used_for_training():
    whole = open_data("digits", recipe("digits"))
    data = open_data("digits", recipe("digits", ["validation_fraction=0.1"]))
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (1212, 135, 450)
    parts = [next(iter(part.batches([torch.arange(len(part))]))).images for part in (data.train, data.validation)]
    (all_images,) = whole.train.batches([torch.arange(1347)])
    assert sorted(torch.cat(parts).flatten(1).tolist()) == sorted(all_images.images.flatten(1).tolist())
    assert torch.bincount(data.validation.labels).min() >= 13


def test_train_images_limits_the_training_images():
    data = open_data("digits", recipe("digits", ["train_images=200"]))
    assert len(data.train) == 200
    with pytest.raises(ValueError, match="train_images is 2000, but digits has 1347 training images"):
        open_data("digits", recipe("digits", ["train_images=2000"]))


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_of_uneven_shards_is_read_once(workers, tmp_path):
    shards(tmp_path, [4, 1, 3])
    data = open_data(tmp_path, recipe("imagenet", [*SMALL, "mean=[0,0,0]", "std=[1,1,1]"]), workers=workers)
    seen = []
    for rank in range(2):
        for batch in data.train.batches(list(torch.arange(8)[rank::2].split(2))):
            seen += (batch.images[:, 0, 0, 0] * 255).round().int().tolist()
    assert sorted(seen) == list(range(8))


class TestErrors:
    def test_labels_out_of_range_raise(self, tmp_path):
        parquet(tmp_path / "train.parquet", [0, 1])
        parquet(tmp_path / "test.parquet", [7])
        with pytest.raises(ValueError, match=r"test\.parquet, row 0 \(test\) has the label 7; there are 2 classes"):
            open_data(tmp_path, recipe("cifar10_fast"))

    def test_label_without_training_image_raises(self, tmp_path):
        for split, labels in (("train", b"02"), ("val", b"01")):
            members = {f"{number}.png": encoded(picture(0)) for number in range(2)}
            members |= {f"{number}.cls": labels[number : number + 1] for number in range(2)}
            shard(tmp_path / f"{split}.tar", members)
        with pytest.raises(ValueError, match=r"val\.tar: 1\.png \(validation\) has the label 1, which no training"):
            open_data(tmp_path, recipe("cifar10_fast"))

    def test_label_larger_than_the_number_of_images_raises(self, tmp_path):
        parquet(tmp_path / "train.parquet", [0, 10**9])
        parquet(tmp_path / "test.parquet", [0])
        with pytest.raises(ValueError, match=r"has labels up to 1000000000, but only 2 training images"):
            open_data(tmp_path, recipe("cifar10_fast"))

    def test_single_class_raises(self, tmp_path):
        for split in ("train", "val"):
            classes(tmp_path / "folders", split, ["cat"])
        for split in ("train", "test"):
            parquet(tmp_path / "files" / f"{split}.parquet", [1, 1])
        for folder, named in (("folders", "'cat'"), ("files", "1")):
            with pytest.raises(ValueError, match=rf"{folder} has training images of only one class, {named}; it needs"):
                open_data(tmp_path / folder, recipe("cifar10_fast"))

    def test_classes_without_training_images_are_logged(self, tmp_path, caplog):
        parquet(tmp_path / "train.parquet", [0, 2], ["a", "b", "c"])
        parquet(tmp_path / "test.parquet", [1], ["a", "b", "c"])
        with caplog.at_level(logging.WARNING, "cnnmod"):
            open_data(tmp_path, recipe("cifar10_fast", SMALL))
        assert "1 of 3 classes have no training image: b" in caplog.messages

    def test_missing_test_split_raises(self, tmp_path):
        classes(tmp_path, "train", ["cat"])
        with pytest.raises(ValueError, match="has the splits train; it needs train, and test or validation"):
            open_data(tmp_path, recipe("cifar10_fast"))

import dataclasses
import logging

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from cnnmod.training import decode
from cnnmod.training.data import open_data
from cnnmod.training.images import DecodedImages
from cnnmod.training.recipes import recipe
from pictures import cells, classes, picture, streets

SMALL = ["image_size=8", "epochs=1", "batch_size=2"]


@pytest.mark.parametrize("name", ["cifar10_fast", "imagenet"])
def test_augmentation_does_not_depend_on_the_batch(name, tmp_path):
    """The result is the same in batches of any size and order."""
    for split in ("train", "val"):
        classes(tmp_path, split, ["cat", "dog"], count=8)
    for path in tmp_path.glob("train/*/*.png"):
        side = torch.randint(0, 255, (16, 16, 3), dtype=torch.uint8).numpy()
        Image.fromarray(side).save(path)
    data = open_data(tmp_path, recipe(name, ["image_size=16", "batch_size=2"]))
    (together,) = data.train.batches([torch.arange(16)], draw=5)
    alone = [batch.images for batch in data.train.batches(list(torch.arange(16).flip(0).split(1)), draw=5)]
    assert torch.equal(torch.cat(alone).flip(0), together.images)
    (otherwise,) = data.train.batches([torch.arange(16)], draw=6)
    assert not torch.equal(otherwise.images, together.images)
    (plain,) = data.train.batches([torch.arange(16)])
    assert torch.equal(plain.labels, together.labels)


def test_gray_images_are_converted_and_logged_once(tmp_path, caplog, monkeypatch):
    for split in ("train", "val"):
        classes(tmp_path, split, ["cat", "dog"], count=1)
        picture(100, mode="LA").save(tmp_path / split / "cat" / "gray.png")
    monkeypatch.setattr(decode, "_logged", set())
    with caplog.at_level(logging.WARNING, "cnnmod"):
        data = open_data(tmp_path, recipe("imagenet", SMALL))
        for _ in range(2):
            assert [batch.images.shape for batch in data.train.batches([torch.arange(3)])] == [(3, 3, 8, 8)]
    assert [record.getMessage() for record in caplog.records] == ["some images are converted from LA to RGB"]


@pytest.mark.parametrize(("name", "workers"), [("cifar10_fast", 0), ("imagenet", 0), ("imagenet", 2)])
def test_broken_images_raise_or_are_skipped(name, workers, tmp_path):
    for split in ("train", "val"):
        classes(tmp_path, split, ["cat", "dog"])
    (tmp_path / "train" / "dog" / "0.png").write_bytes(b"no image")
    made = recipe(name, SMALL)

    def images(skip_broken):
        data = open_data(tmp_path, made, workers=workers, skip_broken=skip_broken)
        (batch,) = data.train.batches([torch.arange(len(data.train))])
        return batch

    with pytest.raises(ValueError, match=rf"^{tmp_path}/train/dog/0\.png is broken: [^\n]*$"):
        images(skip_broken=False)
    batch = images(skip_broken=True)
    assert batch.labels.tolist() == [0, 0, 1]
    assert len(batch.images) == 3
    assert len(batch.broken) == 1


def test_only_broken_images_raise(tmp_path):
    for split in ("train", "val"):
        classes(tmp_path, split, ["cat", "dog"], count=1)
    for path in tmp_path.glob("train/*/*.png"):
        path.write_bytes(b"")
    data = open_data(tmp_path, recipe("imagenet", SMALL), skip_broken=True)
    (batch,) = data.train.batches([torch.arange(2)])
    assert len(batch) == 0
    assert len(batch.broken) == 2
    with pytest.raises(
        ValueError, match=r"all train images are broken; the first error: .*cat/0.png is broken: the file is"
    ):
        open_data(tmp_path, recipe("cifar10_fast", SMALL), skip_broken=True)


def test_two_channels_raise():
    two = recipe("digits", ["in_channels=2", "mean=[0, 0]", "std=[1, 1]"])
    with pytest.raises(ValueError, match="in_channels must be 1 or 3, not 2"):
        open_data("digits", two)


class Numbers:
    """A user's data set. The gray value of an image is its number, and images 1 and 4 are broken."""

    def __len__(self):
        return 6

    def name(self, number):
        return f"number {number}"

    def open(self, number, channels):
        if number in (1, 4):
            raise ValueError(f"{self.name(number)} is broken: in a test")
        return Image.new("L", (2, 2), number), number


def twice(image, label):
    if label == 3:
        raise ValueError("is too odd")
    return pil_to_tensor(image), 2 * label


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_decoded_images_accept_any_data_set(stacked, workers):
    images = DecodedImages(Numbers(), twice, 1, stacked=stacked, workers=workers, skip_broken=True)
    assert len(images) == 6
    first, second = images.batches([torch.tensor([5, 1, 2]), torch.tensor([4, 3])])
    assert [int(image.max()) for image in first.images] == [5, 2]
    assert [int(label) for label in first.labels] == [10, 4]
    assert isinstance(first.images, torch.Tensor) == isinstance(first.labels, torch.Tensor) == stacked
    assert first.broken == ["number 1 is broken: in a test"]
    assert (second.images, second.labels) == ([], [])
    assert second.broken == ["number 4 is broken: in a test", "number 3 is too odd"]
    stopping = dataclasses.replace(images, skip_broken=False)
    with pytest.raises(ValueError, match=r"^number 3 is too odd$"):
        list(stopping.batches([torch.tensor([0, 3])]))


def test_subset_keeps_the_augmentation_of_each_image():
    """The augmentation depends on the index in the data set, not on the index in the subset."""

    def drawn(image, label):
        return torch.rand(3), label

    whole, some = (DecodedImages(Numbers(), drawn, 1, numbers) for numbers in (None, [5, 0]))
    assert len(some) == 2
    (one,), (other,) = whole.batches([torch.tensor([0])], draw=7), some.batches([torch.tensor([1])], draw=7)
    assert torch.equal(one.images, other.images)
    assert one.labels.tolist() == other.labels.tolist() == [0]


@pytest.mark.parametrize(("name", "make"), [("imagenet", None), ("camvid", streets), ("bccd", cells)])
def test_batch_of_broken_images_is_empty_for_all_tasks(name, make, tmp_path):
    if make is None:
        for split in ("train", "val"):
            classes(tmp_path, split, ["cat", "dog"])
    else:
        make(tmp_path, train=2, val=2)
    for path in (path for ending in ("png", "jpg") for path in tmp_path.rglob(f"*.{ending}")):
        path.write_bytes(b"")
    images = open_data(tmp_path, recipe(name), skip_broken=True).train
    (batch,) = images.batches([torch.arange(2)], draw=0)
    assert (batch.images, batch.labels) == ([], [])
    assert all("is broken: the file is empty" in reason for reason in batch.broken)
    assert len(batch.broken) == 2

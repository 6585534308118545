import logging

import pytest
import torch
from PIL import Image

from cnnmod.training import decode
from cnnmod.training.data import open_data
from cnnmod.training.recipes import recipe
from pictures import classes, picture

SMALL = ["image_size=8", "epochs=1", "batch_size=2"]


@pytest.mark.parametrize("name", ["cifar10_fast", "imagenet"])
def test_an_image_is_augmented_alike_wherever_it_stands(name, tmp_path):
    """Alone or in a batch, in whatever process, in an epoch from its start or from its middle."""
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


def test_crop_and_flip(tmp_path):
    """Each is the image itself, shifted by no more than an eighth, and mirrored or not."""
    side = torch.arange(16 * 16, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3).numpy()
    for split in ("train", "test"):
        classes(tmp_path, split, ["cat", "dog"], count=15)
        for path in tmp_path.glob(f"{split}/*/*.png"):
            Image.fromarray(side).save(path)
    data = open_data(tmp_path, recipe("cifar10_fast", ["image_size=16", "mean=[0,0,0]", "std=[1,1,1]"]))
    (batch,) = data.train.batches([torch.arange(30)], draw=1)
    padded = torch.nn.functional.pad(torch.from_numpy(side[:, :, 0].copy()), (2, 2, 2, 2))
    possible = {
        (shift_y, shift_x, mirrored): (crop.flip(1) if mirrored else crop)
        for shift_y in range(5)
        for shift_x in range(5)
        for mirrored in (False, True)
        for crop in [padded[shift_y : shift_y + 16, shift_x : shift_x + 16]]
    }
    seen = set()
    for image in (batch.images[:, 0] * 255).round().byte():
        found = [key for key, expected in possible.items() if torch.equal(image, expected)]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) > 10
    assert {mirrored for _, _, mirrored in seen} == {False, True}


def test_grey_images_are_converted_and_it_is_said_once(tmp_path, caplog, monkeypatch):
    for split in ("train", "val"):
        classes(tmp_path, split, ["cat", "dog"], count=1)
        picture(100, mode="LA").save(tmp_path / split / "cat" / "grey.png")
    monkeypatch.setattr(decode, "_said", set())
    with caplog.at_level(logging.WARNING, "cnnmod"):
        data = open_data(tmp_path, recipe("imagenet", SMALL))
        for _ in range(2):
            assert [batch.images.shape for batch in data.train.batches([torch.arange(3)])] == [(3, 3, 8, 8)]
    assert [record.getMessage() for record in caplog.records] == ["some images are LA, not RGB, and are converted"]


@pytest.mark.parametrize(("name", "workers"), [("cifar10_fast", 0), ("imagenet", 0), ("imagenet", 2)])
def test_broken_images(name, workers, tmp_path):
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


def test_all_broken(tmp_path):
    for split in ("train", "val"):
        classes(tmp_path, split, ["cat", "dog"], count=1)
    for path in tmp_path.glob("train/*/*.png"):
        path.write_bytes(b"")
    data = open_data(tmp_path, recipe("imagenet", SMALL), skip_broken=True)
    (batch,) = data.train.batches([torch.arange(2)])
    assert len(batch) == 0
    assert len(batch.broken) == 2
    with pytest.raises(ValueError, match=r"all train images are broken, the first: .*cat/0.png is broken: the file is"):
        open_data(tmp_path, recipe("cifar10_fast", SMALL), skip_broken=True)


def test_two_channels():
    two = recipe("digits", ["in_channels=2", "mean=[0, 0]", "std=[1, 1]"])
    with pytest.raises(ValueError, match="images have 1 or 3 channels, not in_channels = 2"):
        open_data("digits", two)

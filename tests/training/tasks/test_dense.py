from pathlib import Path

import pytest
import torch

from cnnmod.training.data import calibration_images, open_data
from cnnmod.training.recipes import recipe
from pictures import annotation, cells, picture, streets

STREETS = ['classes=["road", "box"]', "ignore=9", "image_size=[48,64]", "crop_size=[32,40]"]
GRAY = ["mean=[0,0,0]", "std=[1,1,1]"]


def batch_of(images, numbers=(0, 1), draw=None):
    return next(iter(images.batches([torch.tensor(numbers)], draw)))


def test_image_and_mask_are_augmented_together(tmp_path: Path) -> None:
    data = open_data(streets(tmp_path, train=4, val=2), recipe("camvid", [*STREETS, *GRAY]))
    for draw in range(5):
        batch = batch_of(data.train, draw=draw)
        assert batch.images.shape == (2, 3, 32, 40)
        assert batch.labels.shape == (2, 32, 40)
        blue_NHW, known_NHW = batch.images[:, 2] > 0.45, batch.labels != 255
        agree = (blue_NHW == (batch.labels == 0))[known_NHW]  # only class 0 is blue
        assert agree.float().mean() > 0.95


def test_augmentation_depends_only_on_seed_and_image(tmp_path: Path) -> None:
    data = open_data(streets(tmp_path, train=4, val=2), recipe("camvid", STREETS))
    together, alone = batch_of(data.train, (3, 1), draw=7), batch_of(data.train, (1,), draw=7)
    assert torch.equal(together.images[1], alone.images[0])
    assert torch.equal(together.labels[1], alone.labels[0])
    assert not torch.equal(batch_of(data.train, (1,), draw=8).images, alone.images)


def test_padding_of_a_crop_is_ignored(tmp_path: Path) -> None:
    data = open_data(
        streets(tmp_path, train=2, val=1),
        recipe("camvid", [*STREETS[:3], "crop_size=[48,64]", "task.scale=[0.5,0.5]", *GRAY]),
    )
    batch = batch_of(data.train, draw=0)
    assert batch.images.shape[2:] == (48, 64) == batch.labels.shape[1:]
    added = batch.labels == 255
    assert added.float().mean() > 0.7
    assert batch.images.permute(0, 2, 3, 1)[added].float().mean() < 0.05


def test_test_images_are_not_augmented(tmp_path: Path) -> None:
    data = open_data(streets(tmp_path, train=2, val=2), recipe("camvid", [*STREETS, *GRAY]))
    batch = batch_of(data.test)
    assert batch.images.shape == (2, 3, 48, 64)
    assert torch.equal(batch.images, batch_of(data.test, draw=3).images)
    assert data.num_classes == 2
    assert data.validation is None


def test_val_selects_checkpoints_if_there_is_a_test_split(tmp_path: Path) -> None:
    data = open_data(streets(tmp_path, train=2, val=3, test=1), recipe("camvid", STREETS))
    assert data.validation is not None
    assert (len(data.validation), len(data.test)) == (3, 1)


def test_boxes_are_flipped_with_their_image(tmp_path: Path) -> None:
    data = open_data(cells(tmp_path, train=4, val=2), recipe("bccd"))
    plain = batch_of(data.test, (1,))
    assert data.num_classes == 3
    with pytest.raises(ValueError, match=r"the images have different sizes"):
        calibration_images(data)
    assert plain.labels[0]["boxes"].shape == (2, 4)
    mirrored = 0
    for draw in range(8):
        batch = batch_of(data.train, (1,), draw=draw)
        (image_CHW,), (label,) = batch.images, batch.labels
        left, top, right, bottom = label["boxes"][0].int().tolist()
        middle = image_CHW[:, (top + bottom) // 2, (left + right) // 2]
        assert middle[0] > 2 * middle[1]  # only the cell is red
        mirrored += left != 14
    assert 0 < mirrored < 8


def test_difficult_boxes_are_not_used_for_training(tmp_path: Path) -> None:
    cells(tmp_path, train=1, val=1)
    for number in (0, 1):
        (tmp_path / "Annotations" / f"cell{number}.xml").write_text(annotation(("cell", 1, 1, 9, 9), difficult=1))
    data = open_data(tmp_path, recipe("bccd"))
    assert len(batch_of(data.train, (0,)).labels[0]["boxes"]) == 0
    assert batch_of(data.test, (0,)).labels[0]["difficult"].tolist() == [1]


def test_train_images_limits_the_training_images(tmp_path: Path) -> None:
    cells(tmp_path, train=5, val=1)
    assert len(open_data(tmp_path, recipe("bccd", ["train_images=3"])).train) == 3
    with pytest.raises(ValueError, match=r"train_images is 6, but .* has 5 training images"):
        open_data(tmp_path, recipe("bccd", ["train_images=6"]))


def test_error_names_the_image_smaller_than_the_crop(tmp_path: Path) -> None:
    data = open_data(streets(tmp_path, train=2, val=1), recipe("camvid", [*STREETS[:3], "crop_size=[48,65]"]))
    with pytest.raises(
        ValueError, match=r"train/train0.png has 48 × 64 pixels, which is smaller than the crop \(48, 65\)"
    ):
        batch_of(data.train, draw=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_skipped_and_named(workers: int, tmp_path: Path) -> None:
    cells(tmp_path, train=3, val=1)
    (tmp_path / "Annotations" / "cell1.xml").write_text("no XML")
    with pytest.raises(ValueError, match=r"cell1.xml is not an annotation"):
        batch_of(open_data(tmp_path, recipe("bccd")).train)
    images = open_data(tmp_path, recipe("bccd"), workers=workers, skip_broken=True).train
    batch = batch_of(images)
    assert len(batch) == len(batch.labels) == 1
    assert "cell1.xml" in batch.broken[0]
    assert len(batch_of(images, (1,))) == 0


def test_split_without_images_raises(tmp_path: Path) -> None:
    streets(tmp_path, train=1, val=0)
    with pytest.raises(ValueError, match=r"has no validation images"):
        open_data(tmp_path, recipe("camvid", STREETS))


def test_gray_photographs_are_converted_to_color(tmp_path: Path) -> None:
    streets(tmp_path, train=1, val=1)
    picture(9, (64, 48), "L").save(tmp_path / "train" / "train0.png")
    assert batch_of(open_data(tmp_path, recipe("camvid", STREETS)).train, (0,), draw=0).images.shape[1] == 3

import logging
from pathlib import Path

import pytest
from PIL import Image

from cnnmod.training.classes import name_classes
from cnnmod.training.data import open_data
from cnnmod.training.recipes import recipe
from cnnmod.training.tasks import TASKS
from pictures import annotation, cells, city, shards, streets

MASKS = ['classes=["road", "box"]', "image_size=[48, 64]", "crop_size=[48, 64]"]
CELLS = recipe("bccd", ["image_size=[64, 80]"])


def check(data, task):
    TASKS[task]().check_data(data, lambda what, done, total: None)


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def recolored(folder: Path, values: dict[int, int]) -> Path:
    for path in folder.glob("*annot/*.png"):
        Image.open(path).point(lambda value: values.get(value, 0)).save(path)
    return folder


def rewritten(folder: Path, text: str, *numbers: int) -> Path:
    for number in numbers:
        (folder / "Annotations" / f"cell{number}.xml").write_text(text)
    return folder


class TestMasks:
    def test_class_missing_in_all_splits_is_logged_once(self, tmp_path, caplog):
        """With a single remaining class, the mIoU would be 100 %."""
        streets(tmp_path, train=2, val=2)
        recolored(tmp_path, {0: 0, 1: 255, 9: 255})
        how = recipe("camvid", [*MASKS, "ignore=255"])
        data = open_data(tmp_path, how)
        check(data, "segmentation")
        assert said(caplog) == [
            f"no {split} pixel belongs to box (class 1); the masks have the values 0, 255 (ignored)"
            for split in ("training", "test")
        ]
        caplog.clear()
        check(data, "segmentation")  # the next run on the same data
        assert said(caplog) == []
        check(open_data(tmp_path, how), "segmentation")
        assert len(said(caplog)) == 2

    def test_complete_data_logs_nothing(self, tmp_path, caplog):
        check(
            open_data(streets(tmp_path, train=2, val=2, test=1), recipe("camvid", [*MASKS, "ignore=9"])), "segmentation"
        )
        assert said(caplog) == []

    def test_class_missing_in_one_split_is_logged(self, tmp_path, caplog):
        streets(tmp_path, train=2, val=2, test=1)
        recolored(tmp_path / "none", {})
        for path in (tmp_path / "testannot").iterdir():
            Image.new("L", (64, 48), 1).save(path)
        check(open_data(tmp_path, recipe("camvid", [*MASKS, "ignore=9"])), "segmentation")
        assert said(caplog) == ["no test pixel belongs to road (class 0); the masks have the values 1"]

    def test_missing_cityscapes_classes_are_logged(self, tmp_path, caplog):
        check(open_data(city(tmp_path, train=1, val=1), recipe("cityscapes")), "segmentation")
        assert len(said(caplog)) == 2
        assert said(caplog)[0].startswith("no training pixel belongs to sidewalk (class 1), building (class 2), wall")
        assert said(caplog)[0].endswith("and 9 more; the masks have the values 7, 26, 4 (ignored)")

    def test_single_class_raises(self, tmp_path):
        how = recipe("camvid", ['classes=["road"]', "ignore=255"])
        with pytest.raises(
            ValueError, match=r"the data set has only one class, road \(class 0\); it needs two or more"
        ):
            check(open_data(recolored(streets(tmp_path, train=2, val=2), {9: 255}), how), "segmentation")

    def test_only_ignored_pixels_raise(self, tmp_path):
        recolored(streets(tmp_path, train=2, val=2), {0: 9, 1: 9, 9: 9})
        with pytest.raises(
            ValueError, match=r"no training pixel belongs to any class; the masks have the values 9 \(ignored\)"
        ):
            check(open_data(tmp_path, recipe("camvid", [*MASKS, "ignore=9"])), "segmentation")

    def test_unknown_mask_value_raises_before_training(self, tmp_path, caplog):
        streets(tmp_path, train=3, val=2)
        Image.new("L", (64, 48), 7).save(tmp_path / "trainannot" / "train2.png")
        how = recipe("camvid", [*MASKS, "ignore=9"])
        with pytest.raises(
            ValueError, match=r"train2\.png has pixels with the value 7; the accepted values are 0, 1, 9"
        ):
            check(open_data(tmp_path, how), "segmentation")
        check(open_data(tmp_path, how, skip_broken=True), "segmentation")
        assert said(caplog) == []


class TestBoxes:
    def test_class_without_training_boxes_is_logged(self, tmp_path, caplog):
        rewritten(cells(tmp_path, train=3, val=2), annotation(("cell", 1, 2, 30, 40)), 0, 1, 2)
        check(open_data(tmp_path, CELLS), "detection")
        assert said(caplog) == ["no training box belongs to drop (class 2); there are boxes of cell"]

    def test_difficult_boxes_are_not_counted(self, tmp_path, caplog):
        rewritten(cells(tmp_path, train=2, val=2), annotation(("drop", 1, 2, 30, 40), difficult=1), 1)
        check(open_data(tmp_path, CELLS), "detection")
        assert said(caplog) == ["no training box belongs to drop (class 2); there are boxes of cell"]

    @pytest.mark.parametrize(("numbers", "split"), [((0, 1), "training"), ((2, 3), "test")])
    def test_split_without_boxes_raises(self, numbers, split, tmp_path):
        rewritten(cells(tmp_path, train=2, val=2), annotation(), *numbers)
        with pytest.raises(ValueError, match=rf"no {split} box belongs to any class$"):
            check(open_data(tmp_path, CELLS), "detection")

    def test_names_that_differ_only_in_case_are_logged(self, tmp_path, caplog):
        rewritten(
            cells(tmp_path, train=2, val=2), annotation(("cell", 1, 2, 30, 40), ("Cell", 1, 2, 30, 40)), 0, 1, 2, 3
        )
        check(open_data(tmp_path, CELLS), "detection")
        assert said(caplog) == [
            "the classes 'Cell' and 'cell' differ only in case or spaces; they are trained as two classes"
        ]


class TestImages:
    def test_class_without_test_images_is_logged(self, tmp_path, caplog):
        shards(tmp_path, [6])
        how = recipe("digits", ["in_channels=3", "mean=[0, 0, 0]", "std=[1, 1, 1]"])
        check(open_data(tmp_path, how), "classification")
        assert said(caplog) == ["no test image belongs to class 0, class 1"]

    def test_class_without_training_images_is_logged(self, caplog):
        check(open_data("digits", recipe("digits", ["train_images=5"])), "classification")
        (message,) = said(caplog)
        assert message.startswith("no training image belongs to ")

    def test_complete_data_logs_nothing(self, caplog):
        check(open_data("digits", recipe("digits", ["validation_fraction=0.1"])), "classification")
        assert said(caplog) == []


def test_long_class_lists_are_shortened():
    assert name_classes([1, 3], ["a", "b", "c", "d"]) == "b (class 1), d (class 3)"
    assert name_classes([2], None) == "class 2"
    assert name_classes(range(10), None).endswith("class 7 and 2 more")

import shutil
from pathlib import Path

import pytest
import torch

from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import recipe
from cnnmod.training.scene_layouts import SceneData, find_boxes, find_masks
from cnnmod.training.tasks import Segmentation
from pictures import annotation, cells, city, oriented, picture, streets

STREETS = recipe("camvid", ['classes=["road", "box"]', "ignore=9"])
CELLS = recipe("bccd")


def find_scenes(folder: Path, how: Recipe) -> SceneData:
    if isinstance(how.task, Segmentation):
        return find_masks(folder, how.task.classes, how.task.ignore)
    return find_boxes(folder)


def test_finds_masks_next_to_images(tmp_path: Path) -> None:
    splits, classes = find_scenes(streets(tmp_path, train=3, val=2, test=1), STREETS)
    assert {split: len(scenes) for split, scenes in splits.items()} == {"train": 3, "validation": 2, "test": 1}
    assert classes == ("road", "box")
    image, mask_HW = splits["train"].open(0)
    assert image.size == (64, 48)
    assert mask_HW.unique().tolist() == [0, 1, 255]
    assert (mask_HW == 1).sum() == 21 * 16


def test_finds_voc_folders(tmp_path: Path) -> None:
    splits, classes = find_scenes(cells(tmp_path, train=3, val=2), CELLS)
    assert {split: len(scenes) for split, scenes in splits.items()} == {"train": 3, "validation": 2}
    assert classes == ("background", "cell", "drop")
    _, label = splits["train"].open(1)
    assert label["boxes"].tolist() == [[14, 10, 44, 40], [60, 45, 72, 57]]
    assert label["labels"].tolist() == [1, 2]
    assert label["difficult"].tolist() == [0, 0]


def test_first_of_several_voc_years_is_used_for_validation(tmp_path: Path) -> None:
    for year, count in ((2007, 3), (2012, 4)):
        cells(tmp_path / "VOCdevkit" / f"VOC{year}", train=count, val=2)
    splits, _ = find_scenes(tmp_path, CELLS)
    assert {split: len(scenes) for split, scenes in splits.items()} == {"train": 7, "validation": 2}
    assert {path.parent.parent.name for path in splits["validation"].images} == {"VOC2007"}


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    streets(tmp_path / "streets", train=2, val=1)
    cells(tmp_path / "cells", train=2, val=1)
    city(tmp_path / "city", train=1, val=1)
    (tmp_path / "streets" / "train" / "._train0.png").write_bytes(b"of a Mac")
    (tmp_path / "streets" / ".val").mkdir()
    for name in (".x.xml", "._cell0.xml"):
        (tmp_path / "cells" / "Annotations" / name).write_text(annotation(("hidden", 1, 2, 3, 4)))
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(tmp_path / "city" / kind / "train" / "ulm", tmp_path / "city" / kind / "train" / ".ulm")
    assert len(find_scenes(tmp_path / "streets", STREETS)[0]["train"]) == 2
    assert find_scenes(tmp_path / "cells", CELLS)[1] == ("background", "cell", "drop")
    assert len(find_scenes(tmp_path / "city", recipe("cityscapes"))[0]["train"]) == 1


def test_hidden_voc_year_folders_are_skipped(tmp_path: Path) -> None:
    for year in ("VOC2007", ".VOC2012"):
        cells(tmp_path / "VOCdevkit" / year, train=2, val=1)
    assert len(find_scenes(tmp_path, CELLS)[0]["train"]) == 2


def test_image_without_objects_has_no_boxes(tmp_path: Path) -> None:
    splits, _ = find_scenes(cells(tmp_path, train=1, val=1), CELLS)
    (tmp_path / "Annotations" / "cell0.xml").write_text(annotation())
    assert splits["train"].open(0)[1]["boxes"].shape == (0, 4)


def test_finds_cityscapes(tmp_path: Path) -> None:
    splits, classes = find_scenes(city(tmp_path, train=1, val=1), recipe("cityscapes"))
    assert len(classes) == 19
    assert (classes[0], classes[13]) == ("road", "car")
    _, mask_HW = splits["validation"].open(0)
    assert mask_HW.unique().tolist() == [0, 13, 255]
    assert mask_HW[2, 3:5].tolist() == [13, 255]


def test_other_split_names_are_accepted(tmp_path: Path) -> None:
    streets(tmp_path, training=2, valid=1)
    splits, _ = find_scenes(tmp_path, STREETS)
    assert {split: len(scenes) for split, scenes in splits.items()} == {"train": 2, "validation": 1}


class TestErrors:
    @pytest.mark.parametrize("labeled", [True, False])
    def test_two_folders_of_one_split_raise(self, labeled: bool, tmp_path: Path) -> None:
        streets(tmp_path, train=1, val=1, valid=1)
        if not labeled:
            shutil.rmtree(tmp_path / "validannot")
        both = f"{tmp_path}/val and {tmp_path}/valid are both the validation split; keep one of them"
        with pytest.raises(ValueError, match=f"^{both}$"):
            find_scenes(tmp_path, STREETS)

    def test_missing_folder_raises(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"data folder .*none does not exist"):
            find_scenes(tmp_path / "none", STREETS)

    @pytest.mark.parametrize(("how", "accepted"), [(STREETS, "trainannot"), (CELLS, "Annotations")])
    def test_unsupported_layout_raises(self, how, accepted: str, tmp_path: Path) -> None:
        (tmp_path / "pictures").mkdir()
        with pytest.raises(ValueError, match=rf"contains pictures; the supported layouts are .*{accepted}"):
            find_scenes(tmp_path, how)

    def test_missing_mask_raises(self, tmp_path: Path) -> None:
        (streets(tmp_path, train=2, val=1) / "trainannot" / "train1.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"trainannot/train1.png, which belongs to train1.png"):
            find_scenes(tmp_path, STREETS)

    def test_missing_annotation_raises(self, tmp_path: Path) -> None:
        (cells(tmp_path, train=2, val=1) / "Annotations" / "cell1.xml").unlink()
        with pytest.raises(FileNotFoundError, match=r"Annotations/cell1.xml, which belongs to cell1.jpg"):
            find_scenes(tmp_path, CELLS)

    def test_missing_split_list_raises(self, tmp_path: Path) -> None:
        (cells(tmp_path, train=2, val=1) / "ImageSets" / "Main" / "val.txt").unlink()
        with pytest.raises(FileNotFoundError, match=r"val.txt, the list of validation images"):
            find_scenes(tmp_path, CELLS)

    def test_incomplete_cityscapes_raises(self, tmp_path: Path) -> None:
        (tmp_path / "leftImg8bit").mkdir()
        with pytest.raises(ValueError, match=r"is not a complete copy of Cityscapes"):
            find_scenes(tmp_path, recipe("cityscapes"))

    def test_classes_without_names_raise(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"the classes in .* have no names; set them"):
            find_scenes(streets(tmp_path, train=1, val=1), recipe("camvid", ["classes=[]"]))

    def test_ignore_value_of_a_class_raises(self) -> None:
        with pytest.raises(ValueError, match=r"ignore must be from 2 \(the number of classes\) to 255, not 1"):
            recipe("camvid", ['classes=["road", "box"]', "ignore=1"])

    def test_unknown_mask_value_raises(self, tmp_path: Path) -> None:
        splits, _ = find_scenes(streets(tmp_path, train=1, val=1), recipe("camvid", ['classes=["road"]', "ignore=9"]))
        with pytest.raises(
            ValueError, match=r"trainannot/train0.png has pixels with the value 1; the accepted values are 0, 9"
        ):
            splits["train"].open(0)

    def test_mask_of_another_size_raises(self, tmp_path: Path) -> None:
        splits, _ = find_scenes(streets(tmp_path, train=1, val=1), STREETS)
        picture(0, (8, 8), "L").save(tmp_path / "trainannot" / "train0.png")
        with pytest.raises(ValueError, match=r"train0.png has 8 × 8 pixels, but its image has 48 × 64"):
            splits["train"].open(0)

    def test_color_mask_raises(self, tmp_path: Path) -> None:
        splits, _ = find_scenes(streets(tmp_path, train=1, val=1), STREETS)
        shutil.copy(tmp_path / "train" / "train0.png", tmp_path / "trainannot" / "train0.png")
        with pytest.raises(
            ValueError, match=r"train0.png must be a mask with one byte per pixel, not an image of mode RGB"
        ):
            splits["train"].open(0)

    def test_broken_annotation_raises_when_it_is_used(self, tmp_path: Path) -> None:
        splits, classes = find_scenes(cells(tmp_path, train=2, val=1), CELLS)
        (tmp_path / "Annotations" / "cell0.xml").write_text("no XML")
        with pytest.raises(ValueError, match=r"cell0.xml is not an annotation of Pascal VOC"):
            splits["train"].open(0)
        assert find_scenes(tmp_path, CELLS)[1] == classes

    @pytest.mark.parametrize("name", ["background", "Background", " BACKGROUND\n"])
    def test_object_named_background_raises(self, name: str, tmp_path: Path) -> None:
        cells(tmp_path, train=2, val=1)
        (tmp_path / "Annotations" / "cell1.xml").write_text(annotation((name, 1, 2, 3, 4)))
        with pytest.raises(ValueError, match=rf"cell1.xml has an object named '{name.strip()}'"):
            find_scenes(tmp_path, CELLS)

    def test_data_set_without_objects_raises(self, tmp_path: Path) -> None:
        cells(tmp_path, train=2, val=1)
        for number in range(3):
            (tmp_path / "Annotations" / f"cell{number}.xml").write_text(annotation())
        with pytest.raises(ValueError, match=rf"no annotation in {tmp_path} has an object$"):
            find_scenes(tmp_path, CELLS)
        (tmp_path / "Annotations" / "cell1.xml").write_text("no XML")
        with pytest.raises(ValueError, match=r"has an object; .*cell1.xml is not an annotation"):
            find_scenes(tmp_path, CELLS)

    def test_broken_image_raises(self, tmp_path: Path) -> None:
        splits, _ = find_scenes(cells(tmp_path, train=1, val=1), CELLS)
        (tmp_path / "JPEGImages" / "cell0.jpg").write_bytes(b"no image")
        with pytest.raises(ValueError, match=r"cell0.jpg is broken"):
            splits["train"].open(0)


class TestOrientation:
    """Photographs with an EXIF orientation: stored with 48 × 64 pixels, upright with 64 × 48."""

    def turned(self, folder: Path, mask_size: tuple[int, int]):
        splits, _ = find_scenes(streets(folder, train=1, val=1), STREETS)
        image = picture((0, 0, 0), (64, 48))
        image.paste((255, 0, 0), (0, 0, 8, 8))
        image.save(folder / "train" / "train0.png", exif=oriented(6))
        picture(0, mask_size, "L").save(folder / "trainannot" / "train0.png")
        return splits["train"]

    def test_mask_of_the_upright_image_is_accepted(self, tmp_path: Path) -> None:
        image, mask_HW = self.turned(tmp_path, (48, 64)).open(0)
        assert (image.size, mask_HW.shape) == ((48, 64), (64, 48))
        assert image.getpixel((44, 3)) == (255, 0, 0)

    def test_mask_of_the_stored_image_raises(self, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"train0.png has 48 × 64 pixels, but its image has 64 × 48 after EXIF orientation"
        ):
            self.turned(tmp_path, (64, 48)).open(0)

    @pytest.mark.parametrize(
        ("size", "refused"), [("", True), ("<size><width>64</width><height>80</height></size>", False)]
    )
    def test_boxes_require_the_size_of_the_upright_image(self, size: str, refused: bool, tmp_path: Path) -> None:
        splits, _ = find_scenes(cells(tmp_path, train=1, val=1), CELLS)
        picture((0, 0, 0), (80, 64)).save(tmp_path / "JPEGImages" / "cell0.jpg", exif=oriented(8))
        text = annotation(("cell", 5, 10, 60, 80)).replace("<object>", f"{size}<object>", 1)
        (tmp_path / "Annotations" / "cell0.xml").write_text(text)
        if refused:
            with pytest.raises(ValueError, match=r"cell0.jpg has the EXIF orientation 8, and .*xml does not state"):
                splits["train"].open(0)
        else:
            image, label = splits["train"].open(0)
            assert image.size == (64, 80)
            assert label["boxes"].tolist() == [[5, 10, 60, 80]]


def test_16_bit_images_are_not_clipped(tmp_path: Path) -> None:
    splits, _ = find_scenes(streets(tmp_path, train=1, val=1), STREETS)
    picture(100 * 256, (64, 48), "I;16").save(tmp_path / "train" / "train0.png")
    assert splits["train"].open(0)[0].getpixel((3, 3)) == (100, 100, 100)


def test_hidden_files_and_folders_are_ignored(tmp_path: Path) -> None:
    streets(tmp_path / "masks", train=2, val=1)
    (tmp_path / "masks" / "train" / "._train0.png").write_bytes(b"macOS")
    city(tmp_path / "city", train=2, val=1)
    copies = tmp_path / "city" / "leftImg8bit" / "train" / ".ipynb_checkpoints"
    shutil.copytree(tmp_path / "city" / "leftImg8bit" / "train" / "ulm", copies)
    for folder, how in (("masks", STREETS), ("city", recipe("cityscapes"))):
        assert len(find_scenes(tmp_path / folder, how)[0]["train"]) == 2


def test_part_selects_images_by_index(tmp_path: Path) -> None:
    splits, _ = find_scenes(cells(tmp_path, train=3, val=1), CELLS)
    assert [path.name for path in splits["train"].part([2, 0]).labels] == ["cell2.xml", "cell0.xml"]
    assert torch.equal(splits["train"].part([2]).open(0)[1]["boxes"], splits["train"].open(2)[1]["boxes"])

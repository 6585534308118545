from pathlib import Path

import pytest

from cnnmod.training.voc import count_boxes, read_annotation, read_boxes
from pictures import annotation

CLASSES = ("background", "cell", "drop")
SIZE = (64, 80)  # height, width


def written(folder: Path, text: str) -> Path:
    (folder / "a.xml").write_text(text)
    return folder / "a.xml"


def sized(width: object, height: object) -> str:
    text = annotation(("cell", 1, 2, 30, 40))
    return text.replace("<folder>", f"<size><width>{width}</width><height>{height}</height></size><folder>")


def test_reads_boxes_classes_and_difficult_flags(tmp_path: Path) -> None:
    path = written(tmp_path, annotation(("drop", 1, 2, 3, 4), ("cell", 5, 6, 7, 8), difficult=1))
    found = read_boxes(path, SIZE, CLASSES)
    assert {name: values.tolist() for name, values in found.items()} == {
        "boxes": [[1, 2, 3, 4], [5, 6, 7, 8]],
        "labels": [2, 1],
        "difficult": [1, 1],
    }
    assert count_boxes(path, CLASSES) == {}
    path = written(tmp_path, annotation(("drop", 1, 2, 3, 4), ("drop", 5, 6, 7, 8)))
    assert count_boxes(path, CLASSES) == {("drop", 2): 2}


def test_parts_of_an_object_are_not_read_as_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    path = written(tmp_path, annotation(("cell", 1, 2, 30, 40)).replace("</object>", part))
    assert read_annotation(path).names == ["cell"]


@pytest.mark.parametrize(("width", "height"), [(80, 64), ("80.0", "64"), (0, 0), ("", ""), (0, 64)])
def test_matching_or_missing_size_is_accepted(width: object, height: object, tmp_path: Path) -> None:
    assert len(read_boxes(written(tmp_path, sized(width, height)), SIZE, CLASSES)["boxes"]) == 1


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [(81, 64, "width of 81 pixels, but the image has 80"), (64, 80, "width of 64 pixels"), (0, 63, "height of 63")],
)
def test_size_of_another_image_raises(width: int, height: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"a\.xml states an image {said}"):
        read_boxes(written(tmp_path, sized(width, height)), SIZE, CLASSES)


@pytest.mark.parametrize(
    "box",
    [
        *((10, 10, 10, 30), (30, 10, 20, 30), (-1, 0, 20, 20), (0, 0, 81, 20), (0, 0, 9, 65)),
        *(("nan", 0, 9, 9), (0, 0, "inf", 9)),
    ],
)
def test_empty_or_outside_box_raises(box, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.xml: the box .* is empty or outside the image, which has 80 × 64"):
        read_boxes(written(tmp_path, annotation(("cell", *box))), SIZE, CLASSES)


def test_unknown_class_name_raises(tmp_path: Path) -> None:
    path = written(tmp_path, annotation(("rod", 1, 2, 3, 4)))
    for read in (lambda: read_boxes(path, SIZE, CLASSES), lambda: count_boxes(path, CLASSES)):
        with pytest.raises(ValueError, match=r"a\.xml has an object named 'rod'; the classes are background, cell"):
            read()


GOOD = annotation(("cell", 1, 2, 30, 40))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no element found"),
        ("no XML", "syntax error"),
        ("<a/>", "its root is <a>, not <annotation>"),
        ("<annotation><object><name>a</name></object></annotation>", "<object> must have one <bndbox/xmin>, not 0"),
        (GOOD.replace("<name>cell</name>", ""), "<object> must have one <name>, not 0"),
        (GOOD.replace("<name>cell</name>", "<name> </name>"), "<name> is empty"),
        (
            GOOD.replace("<name>cell</name>", "<name>cell</name><name>drop</name>"),
            "<object> must have one <name>, not 2",
        ),
        (GOOD.replace("<xmin>1<", "<xmin>one<"), "could not convert string to float: 'one'"),
        (GOOD.replace("<difficult>0<", "<difficult>yes<"), "difficult is 'yes', not 0 or 1"),
        (sized(-1, 64), "its width is -1"),
        (sized("nan", 64), "its width is nan"),
        (GOOD.replace("<annotation>", '<?xml version="1.0" encoding="nothing"?><annotation>'), "unknown encoding"),
        (f"<annotation>{'<object>' * 100_000}", "no element found"),
    ],
)
def test_invalid_annotation_raises(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"a\.xml is not an annotation of Pascal VOC: .*{said}"):
        read_annotation(written(tmp_path, text))

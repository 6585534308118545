"""Write small images in the layouts of common data sets."""

import io
import tarfile
from pathlib import Path

from PIL import Image, ImageDraw


def oriented(orientation: int) -> Image.Exif:
    """Return EXIF data with an orientation. 6 and 8 are rotations by 90°."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def picture(color, size=(8, 8), mode="RGB"):
    return Image.new(mode, size, color)


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def shards(folder, counts):
    """Write shards of images. The gray value of an image is its number, and its label is the number modulo 3."""
    number = 0
    for place, count in enumerate(counts):
        members = {}
        for _ in range(count):
            members[f"{number:04}.png"] = encoded(picture((number, number, number)))
            members[f"{number:04}.cls"] = str(number % 3).encode()
            number += 1
        shard(folder / f"train-{place:03}.tar", members)
    shard(folder / "val-000.tar", {"0.png": encoded(picture((7, 7, 7))), "0.cls": b"2"})


def classes(folder, split, names, count=2):
    for color, name in enumerate(names):
        (folder / split / name).mkdir(parents=True)
        for number in range(count):
            picture((color * 50, number, 0)).save(folder / split / name / f"{number}.png")


def streets(folder: Path, **counts: int) -> Path:
    """Write images of 48 × 64 pixels with masks: a box of class 1 on class 0, with a border of class 9."""
    for split, count in counts.items():
        (folder / split).mkdir(parents=True)
        (folder / f"{split}annot").mkdir()
        for number in range(count):
            left, top = 5 + 7 * number % 30, 5 + 11 * number % 20
            image, mask = picture((40, 90, 200), (64, 48)), picture(0, (64, 48), "L")
            for drawn, box, frame in ((image, (230, 120, 20), (0, 0, 0)), (mask, 1, 9)):
                ImageDraw.Draw(drawn).rectangle((left, top, left + 20, top + 15), fill=box)
                ImageDraw.Draw(drawn).rectangle((0, 0, 63, 47), outline=frame)
            image.save(folder / split / f"{split}{number}.png")
            mask.save(folder / f"{split}annot" / f"{split}{number}.png")
    return folder


def city(folder: Path, **counts: int) -> Path:
    """Write Cityscapes' folders. The images have 32 × 64 pixels of road, one pixel of car and one ignored pixel."""
    for split, count in counts.items():
        images, masks = (folder / kind / split / "ulm" for kind in ("leftImg8bit", "gtFine"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for number in range(count):
            picture((1, 2, 3), (64, 32)).save(images / f"ulm_{number}_leftImg8bit.png")
            mask = picture(7, (64, 32), "L")
            mask.putpixel((3, 2), 26)
            mask.putpixel((4, 2), 4)
            mask.save(masks / f"ulm_{number}_gtFine_labelIds.png")
    return folder


def annotation(*boxes: tuple[str, int, int, int, int], difficult: int = 0) -> str:
    """Return an annotation of Pascal VOC. A box is (class, left, top, right, bottom)."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    objects = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box, strict=True))
        + "</bndbox></object>"
        for name, *box in boxes
    ]
    return f"<annotation><folder>JPEGImages</folder>{''.join(objects)}</annotation>"


def cells(folder: Path, train: int, val: int) -> Path:
    """Write images of 64 × 80 pixels in Pascal VOC's layout. All have a cell, and every second one also has a drop."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for split, numbers in {"train": range(train), "val": range(train, train + val)}.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"cell{number}\n" for number in numbers))
        for number in numbers:
            image, left = picture((230, 230, 230), (80, 64)), 5 + 9 * number % 25
            boxes = [("cell", left, 10, left + 30, 40)]
            boxes += [("drop", 60, 45, 72, 57)] if number % 2 else []
            for (_, *box), color in zip(boxes, ((200, 20, 60), (20, 60, 200)), strict=False):
                ImageDraw.Draw(image).ellipse(tuple(box), fill=color)
            image.save(folder / "JPEGImages" / f"cell{number}.jpg")
            (folder / "Annotations" / f"cell{number}.xml").write_text(annotation(*boxes))
    return folder


def parquet(path: Path, labels: object, names: list[str] | None = None, images: object = None, **options) -> None:
    """Write a Parquet file with images and labels. If the classes have names, it has the metadata of `datasets`."""
    import datasets
    import pyarrow
    from pyarrow.parquet import write_table

    labels = labels if isinstance(labels, pyarrow.Array) else pyarrow.array(labels)
    if images is None:
        images = [{"bytes": encoded(picture((row % 256,) * 3)), "path": None} for row in range(len(labels))]
    table = pyarrow.table({options.get("column", "image"): images, options.get("label", "label"): labels})
    if names is not None:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        table = table.cast(features.arrow_schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, path)

"""`Scenes`: photographs with masks or boxes."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cnnmod.training.decode import ORIENTATION, decode_file
from cnnmod.training.images import Counts
from cnnmod.training.voc import read_annotation

_PROGRESS_DELAY_S = 2  # progress is shown after this time


@dataclass(frozen=True)
class Scenes:
    """The photographs and labels of one split, decoded on access.

    Attributes:
        images: The image files.
        labels: The files of the masks or boxes.
        read: A function from a label file and the height and width of its image to the label. Its errors name the file.
        count_in: A function from a label file to counts by (value or name, class). It counts pixels, including ignored
            ones (class `IGNORED`), or boxes, without difficult ones.
    """

    images: Sequence[Path]
    labels: Sequence[Path]
    read: Callable[[Path, tuple[int, int]], Any]
    count_in: Callable[[Path], Counts]

    def __len__(self) -> int:
        return len(self.images)

    def part(self, numbers: Sequence[int]) -> "Scenes":
        """Return the images with these indices."""
        images, labels = ([files[number] for number in numbers] for files in (self.images, self.labels))
        return Scenes(images, labels, self.read, self.count_in)

    def name(self, number: int) -> str:
        """Return the path of an image."""
        return str(self.images[number])

    def open(self, number: int, channels: int = 3) -> tuple[Image.Image, Any]:
        """Return a decoded image, and its mask (H, W) or its boxes.

        Raises:
            ValueError: If the image or the label is broken. The error names the file.
        """
        path, label = self.images[number], self.labels[number]
        image = decode_file(path, channels)
        if ORIENTATION in image.info and label.suffix == ".xml" and not _has_size(label):
            raise ValueError(
                f"{path} has the EXIF orientation {image.info[ORIENTATION]}, and {label} does not state the size of "
                "the image"
            )
        return image, self.read(label, (image.height, image.width))

    def count(self, numbers: Sequence[int], skip_broken: bool, progress: Callable[[int, int], None]) -> Counts:
        """Sum `count_in` over the labels of these images. `progress` is called if this takes several seconds.

        Raises:
            ValueError: If a label is broken and `skip_broken` is false.
        """

        def count(number: int) -> Counts:
            try:
                return self.count_in(self.labels[number])
            except ValueError:
                if not skip_broken:
                    raise
                return Counter()

        total: Counts = Counter()
        started, shown = time.monotonic(), False
        pool = ThreadPoolExecutor()
        try:
            for done, counts in enumerate(pool.map(count, numbers), 1):
                total.update(counts)
                shown = shown or time.monotonic() - started > _PROGRESS_DELAY_S
                if shown:
                    progress(done, len(numbers))
        finally:
            pool.shutdown(cancel_futures=True)
        return total


def _has_size(path: Path) -> bool:
    try:
        return None not in read_annotation(path).size
    except ValueError:  # raised when the boxes are read
        return True

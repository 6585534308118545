"""Image files as 8-bit images: one way for all tasks."""

import functools
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

logger = logging.getLogger("cnnmod")

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".pgm", ".ppm"),
    "JPEG2000": (".jp2",),
    "AVIF": (".avif",),
}
ORIENTATION = "cnnmod orientation"  # in the info of an image to which an EXIF orientation was applied
IMAGE_SUFFIXES = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
_MODES = {1: "L", 3: "RGB"}  # by the number of channels
_TURNS = {  # by the EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF's tags
_said: set[str] = set()


def is_image_file(path: Path) -> bool:
    """Whether a file's name is that of an image, and not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def decode_file(path: Path, channels: int) -> Image.Image:
    """`decode` for a file.

    Raises:
        ValueError: As `decode`, or the file cannot be read.
    """
    return decode(_content(path), str(path), channels)


def decode(content: bytes, name: str, channels: int) -> Image.Image:
    """Decode an image as it is meant to be shown, with 8 bits per channel.

    The EXIF orientation is applied. 16-bit gray values are divided by 256, as PIL does with 16-bit colors.
    Transparency is dropped. Of several frames the first is taken.

    Args:
        content: The file's content.
        name: What errors call it.
        channels: 3 for color, 1 for gray.

    Raises:
        ValueError: The image is broken, has too many pixels to be safe, or has 32-bit pixels, whose range is unknown;
            the error starts with the name.

    Examples:
        >>> buffer = io.BytesIO()
        >>> Image.new("I;16", (4, 2), 128 * 256).save(buffer, "PNG")
        >>> decode(buffer.getvalue(), "gray.png", 3).getpixel((0, 0))
        (128, 128, 128)
    """
    with _errors_of_pil(content, name, _formats()):
        image = Image.open(io.BytesIO(content), formats=_formats())
        image.load()
    orientation = _orientation(image)
    image = in_mode(_in_8_bits(image, name), name, channels)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
        image.info[ORIENTATION] = orientation
    return image


def decode_mask(path: Path) -> NDArray[Any]:
    """Decode a mask (H, W), a PNG file of one byte a pixel: gray values or palette indexes, which stay as they are.

    Raises:
        ValueError: It is broken or of another kind; or it has an EXIF orientation, which would move its pixels.
    """
    content = _content(path)
    with _errors_of_pil(content, str(path), ("PNG",)):
        mask = Image.open(io.BytesIO(content), formats=("PNG",))
        stored = mask.tile[0][3]  # PIL's name of how pixels are stored
        mask.load()
    if mask.mode not in ("L", "P"):
        raise ValueError(f"{path} is no mask of one byte a pixel, but an image of mode {mask.mode}")
    if mask.mode == "L" and stored != "L":  # PIL stretches 2 and 4 bits to 8
        raise ValueError(f"{path} is no mask of one byte a pixel, but an image of mode {stored}")
    if (orientation := _orientation(mask)) != 1:
        raise ValueError(f"{path} has the EXIF orientation {orientation}; a mask must be stored as it is shown")
    return numpy.array(mask)


def in_mode(image: Image.Image, name: str, channels: int) -> Image.Image:
    """An 8-bit image with so many channels; the modes that are converted are logged once each."""
    wanted = _MODES[channels]
    if image.mode == wanted:
        return image
    _say_once(f"{image.mode} {wanted}", f"some images are {image.mode}, not {wanted}, and are converted")
    image.info.pop("transparency", None)  # it is dropped; PIL warns of some kinds of it
    try:
        return image.convert(wanted)
    except Exception as error:  # PIL's and littleCMS' own
        raise ValueError(f"{name} cannot be converted from {image.mode} to {wanted}: {error}") from error


def why_unreadable(content: bytes) -> str | None:
    """What is wrong with a file that begins with these bytes, of what may be wrong with files of any kind."""
    if not content:
        return "the file is empty"
    if content.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself; run `git lfs pull`"
    return None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that PIL has here. Of others some run programs (EPS), or are only known by name (HDF5)."""
    Image.init()
    return tuple(kind for kind in _SUFFIXES if kind in Image.OPEN)


@contextmanager
def _errors_of_pil(content: bytes, name: str, formats: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        reason = why_unreadable(content) or f"it is no image of the format {' or '.join(formats)}"
        raise ValueError(f"{name} is broken: {reason}") from error
    except Exception as error:  # PIL raises errors of any kind for broken files
        raise ValueError(f"{name} is broken: {' '.join(str(error).split()) or type(error).__name__}") from error


def _in_8_bits(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("I", "F") and not (image.mode == "I" and image.format in ("PPM", "PNG")):  # these are of 16 bits
        raise ValueError(
            f"{name} has pixels of 32 bits (mode {image.mode}), whose range is unknown; store 8 or 16 bits"
        )
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if tags.get(_PHOTOMETRIC) == 0:
        raise ValueError(f"{name} has 16 bits and white as 0 (photometric interpretation 0), which is not supported")
    bits = 12 if tags.get(_BITS_PER_SAMPLE) == (12,) else 16
    values = numpy.asarray(image)
    _say_once("bits", f"some images have {bits} bits, and are converted to 8")
    if 0 < values.max() < 2 ** (bits - 4):
        _say_once("dark", f"{name} uses values to {values.max()} of {2**bits - 1} only, so it is dark in 8 bits")
    return Image.fromarray((values >> (bits - 8)).astype(numpy.uint8))


def _orientation(image: Image.Image) -> int:
    """As EXIF has it; 1, upright, where PIL cannot read the image's EXIF data."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # PIL's own, of any kind
        return 1


def _say_once(what: str, message: str) -> None:
    if what not in _said:
        _said.add(what)
        logger.warning(message)

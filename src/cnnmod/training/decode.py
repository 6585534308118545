"""Decode image files to 8-bit images."""

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
ORIENTATION = "cnnmod orientation"  # key in the info of an image with an applied EXIF orientation
IMAGE_SUFFIXES = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
_MODES = {1: "L", 3: "RGB"}  # by the number of channels
_TRANSPOSES = {  # by the EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_logged: set[str] = set()


def is_image_file(path: Path) -> bool:
    """Whether a file has an image suffix and is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def decode_file(path: Path, channels: int) -> Image.Image:
    """Decode an image file. See `decode`.

    Raises:
        ValueError: If the file cannot be read, or as `decode`.
    """
    return decode(_content(path), str(path), channels)


def decode(content: bytes, name: str, channels: int) -> Image.Image:
    """Decode an image with 8 bits per channel.

    The EXIF orientation is applied. 16-bit gray values are divided by 256, as PIL does for 16-bit colors. Transparency
    is dropped. Only the first frame is decoded.

    Args:
        content: The content of the image file.
        name: The name of the image in errors.
        channels: 3 for color, 1 for gray.

    Raises:
        ValueError: If the image is broken, exceeds the size limit of PIL, or has 32-bit pixels, whose range is unknown.
            The error starts with the name.

    Examples:
        >>> buffer = io.BytesIO()
        >>> Image.new("I;16", (4, 2), 128 * 256).save(buffer, "PNG")
        >>> decode(buffer.getvalue(), "gray.png", 3).getpixel((0, 0))
        (128, 128, 128)
    """
    formats = _formats()
    with _errors_of_pil(content, name, formats):
        image = Image.open(io.BytesIO(content), formats=formats)
        image.load()
    orientation = _orientation(image)
    image = in_mode(_in_8_bits(image, name), name, channels)
    if orientation in _TRANSPOSES:
        image = image.transpose(_TRANSPOSES[orientation])
        image.info[ORIENTATION] = orientation
    return image


def decode_mask(path: Path) -> NDArray[Any]:
    """Decode a mask (H, W) from a PNG file with one byte per pixel. Gray values and palette indices are not changed.

    Raises:
        ValueError: If the file is broken, has another format, or has an EXIF orientation, which would move pixels.
    """
    content = _content(path)
    with _errors_of_pil(content, str(path), ("PNG",)):
        mask = Image.open(io.BytesIO(content), formats=("PNG",))
        raw_mode = mask.tile[0][3]  # how pixels are stored in the file
        mask.load()
    if mask.mode not in ("L", "P"):
        raise ValueError(f"{path} must be a mask with one byte per pixel, not an image of mode {mask.mode}")
    if mask.mode == "L" and raw_mode != "L":  # PIL scales 2 and 4 bits to 8
        raise ValueError(f"{path} must be a mask with one byte per pixel, not an image of mode {raw_mode}")
    if (orientation := _orientation(mask)) != 1:
        raise ValueError(f"{path} has the EXIF orientation {orientation}, which is not supported for masks")
    return numpy.array(mask)


def in_mode(image: Image.Image, name: str, channels: int) -> Image.Image:
    """Convert an 8-bit image to a number of channels. Each conversion between two modes is logged once."""
    mode = _MODES[channels]
    if image.mode == mode:
        return image
    _log_once(f"{image.mode} {mode}", f"some images are converted from {image.mode} to {mode}")
    image.info.pop("transparency", None)  # removed, since PIL warns about some forms of transparency
    try:
        return image.convert(mode)
    except Exception as error:  # PIL and littleCMS raise many types
        raise ValueError(f"{name} cannot be converted from {image.mode} to {mode}: {error}") from error


def why_unreadable(content: bytes) -> str | None:
    """Return why a file that starts with these bytes cannot be read in any format, or `None`."""
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
    """Return the accepted formats that PIL supports. Other formats may run programs (EPS) or have no decoder (HDF5)."""
    Image.init()
    return tuple(name for name in _SUFFIXES if name in Image.OPEN)


@contextmanager
def _errors_of_pil(content: bytes, name: str, formats: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        reason = why_unreadable(content) or f"it is not an image of the format {' or '.join(formats)}"
        raise ValueError(f"{name} is broken: {reason}") from error
    except Exception as error:  # PIL raises any type for broken files
        raise ValueError(f"{name} is broken: {' '.join(str(error).split()) or type(error).__name__}") from error


def _in_8_bits(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("I", "F") and not (image.mode == "I" and image.format in ("PPM", "PNG")):  # these have 16 bits
        raise ValueError(f"{name} has 32-bit pixels (mode {image.mode}), whose range is unknown; use 8 or 16 bits")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if tags.get(_PHOTOMETRIC) == 0:
        raise ValueError(f"{name} has 16 bits and photometric interpretation 0 (white is 0), which is not supported")
    bits = 12 if tags.get(_BITS_PER_SAMPLE) == (12,) else 16
    values = numpy.asarray(image)
    _log_once("bits", f"some images are converted from {bits} bits to 8")
    if 0 < values.max() < 2 ** (bits - 4):
        _log_once("dark", f"{name} has values up to {values.max()} of {2**bits - 1}, so it is dark in 8 bits")
    return Image.fromarray((values >> (bits - 8)).astype(numpy.uint8))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, or 1 (upright) if PIL cannot read the EXIF data."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # PIL raises any type
        return 1


def _log_once(key: str, message: str) -> None:
    if key not in _logged:
        _logged.add(key)
        logger.warning(message)

import io
import logging
import struct
import warnings

import numpy
import pytest
from PIL import Image

from cnnmod.training import decode as decode_module
from cnnmod.training.decode import IMAGE_SUFFIXES, ORIENTATION, decode, decode_file, decode_mask, is_image_file
from pictures import oriented

GRADIENT_HW = (numpy.arange(48 * 64).reshape(48, 64) * 21).astype(numpy.uint16)  # from 0 to 64491


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(decode_module, "_logged", set())


def content(image, kind="PNG", **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


class TestDepth:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_16_bits_are_divided_by_256(self, kind, channels):
        image = decode(content(Image.fromarray(GRADIENT_HW), kind), "x", channels)
        values = numpy.asarray(image if channels == 1 else image.getchannel(2))
        assert (values == GRADIENT_HW // 256).all()

    def test_big_endian_16_bits_are_divided_by_256(self):
        big = Image.frombytes("I;16B", (64, 48), GRADIENT_HW.astype(">u2").tobytes())
        values = numpy.asarray(decode(content(big, "TIFF"), "x", 1))
        assert (values == GRADIENT_HW // 256).all()

    def test_12_bits_are_converted_to_8(self):
        """Two 12-bit values are stored in three bytes. PIL can read this format but not write it."""
        tags = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 3, 1), (279, 4, 3)]
        entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
        file = b"II*\0" + (12).to_bytes(4, "little") + bytes([0x80, 0x0F, 0xFF, 0]) + bytes([len(tags), 0]) + entries
        image = decode(file + bytes(4), "x", 1)
        assert numpy.asarray(image).tolist() == [[0x80, 0xFF]]

    @pytest.mark.parametrize("mode", ["I", "F"])
    def test_32_bits_raise(self, mode):
        image = Image.fromarray(GRADIENT_HW.astype({"I": "int32", "F": "float32"}[mode]))
        with pytest.raises(ValueError, match=rf"^some\.tif has 32-bit pixels \(mode {mode}\), whose range is unknown"):
            decode(content(image, "TIFF"), "some.tif", 3)

    def test_16_bits_with_white_as_0_raise(self):
        image = Image.fromarray(GRADIENT_HW)
        with pytest.raises(ValueError, match=r"^some\.tif has 16 bits and photometric interpretation 0"):
            decode(content(image, "TIFF", tiffinfo={262: 0}), "some.tif", 3)

    def test_dark_images_are_logged_once(self, caplog):
        with caplog.at_level(logging.WARNING, "cnnmod"):
            for _ in range(2):
                decode(content(Image.fromarray(GRADIENT_HW // 20)), "some.png", 1)
        assert [record.getMessage() for record in caplog.records] == [
            "some images are converted from 16 bits to 8",
            "some.png has values up to 3224 of 65535, so it is dark in 8 bits",
        ]


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "color", "kind", "expected"),
        [
            ("1", 1, "PNG", (255, 255, 255)),
            ("L", 7, "PNG", (7, 7, 7)),
            ("LA", (7, 0), "PNG", (7, 7, 7)),
            ("RGBA", (1, 2, 3, 0), "PNG", (1, 2, 3)),
            ("CMYK", (0, 255, 255, 0), "TIFF", (255, 0, 0)),
            ("CMYK", (0, 255, 255, 0), "JPEG", (255, 0, 0)),
            ("YCbCr", (128, 128, 128), "JPEG", (128, 128, 128)),
            ("LAB", (0, 128, 128), "TIFF", (0, 0, 0)),
        ],
    )
    def test_are_converted(self, mode, color, kind, expected):
        image = decode(content(Image.new(mode, (4, 2), color), kind), "x", 3)
        assert (image.mode, image.size) == ("RGB", (4, 2))
        assert image.getpixel((1, 1)) == pytest.approx(expected, abs=1)

    @pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128])])
    def test_palette_and_transparency_are_converted(self, transparency):
        """PIL warns about some forms of transparency. Warnings are errors in these tests."""
        image = Image.new("P", (4, 2), 1)
        image.putpalette([0, 0, 0, 200, 100, 50])
        kwargs = {} if transparency is None else {"transparency": transparency}
        assert decode(content(image, **kwargs), "x", 3).getpixel((0, 0)) == (200, 100, 50)
        assert decode(content(image, **kwargs), "x", 1).mode == "L"

    def test_error_names_the_image_that_pil_cannot_convert(self):
        with pytest.raises(ValueError, match=r"^some\.tif cannot be converted from LAB to L"):
            decode(content(Image.new("LAB", (4, 2)), "TIFF"), "some.tif", 1)

    @pytest.mark.parametrize("kind", ["GIF", "TIFF"])
    def test_only_the_first_frame_is_decoded(self, kind):
        frames = [Image.new("L", (4, 2), value) for value in (10, 200)]
        image = decode(content(frames[0], kind, save_all=True, append_images=frames[1:]), "x", 1)
        assert image.getpixel((0, 0)) == 10


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_is_applied(self, orientation, kind):
        """The corner that is red and stored at the upper left is at its oriented position."""
        image = Image.new("RGB", (32, 16))
        image.paste((255, 0, 0), (0, 0, 8, 8))
        shown = decode(content(image, kind, exif=oriented(orientation)), "x", 3)
        right, lower, turned = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8), orientation > 4
        assert shown.size == ((16, 32) if turned else (32, 16))
        # PIL applies the orientation of TIFF files itself
        assert shown.info.get(ORIENTATION, 1) == (1 if kind == "TIFF" else orientation)
        corner = ((shown.width - 4) if right else 3, (shown.height - 4) if lower else 3)
        assert numpy.asarray(shown)[corner[1], corner[0], 0] > 200
        opposite = (shown.width - 1 - corner[0], shown.height - 1 - corner[1])
        assert numpy.asarray(shown)[opposite[1], opposite[0], 0] < 50

    def test_is_applied_to_16_bits(self):
        shown = decode(content(Image.fromarray(GRADIENT_HW), exif=oriented(6)), "x", 1)
        assert (numpy.asarray(shown) == numpy.rot90(GRADIENT_HW // 256, -1)).all()

    def test_broken_exif_data_is_ignored(self):
        image = Image.new("RGB", (32, 16), (9, 9, 9))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of such data
            assert decode(content(image, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), "x", 3).size == (32, 16)


class TestBroken:
    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            (b"", "the file is empty"),
            (b"no image", "it is not an image of the format JPEG or PNG or "),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "it is a Git LFS pointer"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "it is not an image of the format"),
            (content(Image.effect_noise((64, 64), 50))[:2000], "image file is truncated"),
        ],
    )
    def test_is_named_in_a_one_line_error(self, broken, reason):
        with pytest.raises(ValueError, match=rf"^some\.png is broken: {reason}") as caught:
            decode(broken, "some.png", 3)
        assert "\n" not in str(caught.value)
        assert "BytesIO" not in str(caught.value)

    def test_decompression_bomb_raises(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(ValueError, match=r"^some\.png is broken: Image size \(400 pixels\) exceeds limit"):
            decode(content(Image.new("L", (20, 20))), "some.png", 3)

    def test_unreadable_file_raises(self, tmp_path):
        with pytest.raises(ValueError, match=r"none\.png cannot be read: No such file or directory$"):
            decode_file(tmp_path / "none.png", 3)
        (tmp_path / "x.png").mkdir()
        with pytest.raises(ValueError, match=r"x\.png cannot be read: Is a directory$"):
            decode_file(tmp_path / "x.png", 3)


class TestMasks:
    def test_gray_values_and_palette_indices_are_unchanged(self, tmp_path):
        path = tmp_path / "mask.png"
        for mode in ("L", "P"):
            mask = Image.fromarray((GRADIENT_HW % 7).astype(numpy.uint8))
            if mode == "P":
                mask.putpalette(list(range(60, 60 + 21)))
            mask.save(path)
            assert (decode_mask(path) == GRADIENT_HW % 7).all()

    def test_palette_indices_with_2_bits_are_unchanged(self, tmp_path):
        mask = Image.new("P", (8, 8), 3)
        mask.putpalette([0, 0, 0, 9, 9, 9, 80, 80, 80, 255, 255, 255])
        mask.save(tmp_path / "mask.png", bits=2, transparency=0)
        assert (decode_mask(tmp_path / "mask.png") == 3).all()

    @pytest.mark.parametrize(
        ("mask", "kwargs", "error"),
        [
            (Image.fromarray(GRADIENT_HW), {}, r"an image of mode I;16$"),
            (Image.new("RGB", (4, 4)), {}, r"an image of mode RGB$"),
            (Image.new("1", (4, 4)), {}, r"an image of mode 1$"),
            (Image.new("L", (4, 4), 255), {"bits": 4}, r"an image of mode L;4$"),
            (Image.new("L", (4, 4), 3), {"exif": oriented(3)}, r"has the EXIF orientation 3, which is not supported"),
            (Image.new("L", (4, 4), 3), {"format": "JPEG"}, r"is broken: it is not an image of the format PNG$"),
            (Image.new("L", (4, 4), 3), {"format": "TIFF"}, r"is broken: it is not an image of the format PNG$"),
        ],
    )
    def test_other_formats_raise(self, mask, kwargs, error, tmp_path):
        mask.save(tmp_path / "mask.png", **kwargs)
        with pytest.raises(ValueError, match=rf"mask\.png .*{error}"):
            decode_mask(tmp_path / "mask.png")


def test_image_files_are_recognized_by_name(tmp_path):
    for name in ("a.PNG", "b.Tiff", "c.jpeg", "d.GIF"):
        assert is_image_file(tmp_path / name)
    for name in ("._a.png", ".png", "a.txt", "png", "a.png.part"):
        assert not is_image_file(tmp_path / name)
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)

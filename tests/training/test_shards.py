import gzip
import io
import tarfile

import pytest

from cnnmod.training.layouts import find_sources
from pictures import encoded, picture, shard, shards


def image(gray):
    return encoded(picture((gray, gray, gray)))


def test_reads_shards_in_order(tmp_path):
    shards(tmp_path, [4, 1, 3])
    train = find_sources(tmp_path).splits["train"]
    assert list(train.labels) == [number % 3 for number in range(8)]
    assert [train.open(number)[0].getpixel((0, 0)) for number in range(8)] == [(gray, gray, gray) for gray in range(8)]
    assert train.name(4) == f"{tmp_path}/train-001.tar: 0004.png"


def test_keys_end_at_the_first_dot_of_the_base_name(tmp_path):
    members = {
        "v1.0/0.png": image(0),
        "v1.0/0.cls": b"0",
        "v1.1/0.png": image(1),
        "v1.1/0.cls": b"1",
        "./2.PNG": image(2),
        "2.cls": b"2\n",
        "./a/../3.jpg": image(3),
        "3.CLS": b" 3",
        "4.png": image(4),
        "4.seg.png": b"",
        "4.json": b"{}",
        "4.cls": b"4",
        "._4.png": b"macOS",
        ".hidden/5.png": b"",
        "README": b"",
        "notes.txt": b"",
    }
    shard(tmp_path / "train-0.tar", members)
    train = find_sources(tmp_path).splits["train"]
    assert list(train.labels) == [0, 1, 2, 3, 4]
    assert [train.open(number, 1)[0].getpixel((0, 0)) for number in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ([("a.png", b""), ("b.cls", b"1")], "a has an image but no label"),
        ([("b.png", b""), ("b.cls", b"0"), ("a.cls", b"1")], "a has a label .* but no image"),
        ([("a.png", b""), ("a.cls", b"cat")], "the label a.cls must be a class number, not b'cat'"),
        ([("a.png", b""), ("a.cls", b"1.0")], r"the label a.cls must be a class number, not b'1\.0'"),
        ([("a.png", b""), ("a.cls", b"1" * 19)], "the label a.cls must be a class number"),
        ([("a.png", b""), ("a.cls", b"")], "the label a.cls must be a class number"),
        ([("a.png", b""), ("a.cls", b"1"), ("a.png", b"")], "a has two images or two labels, a.png and a.png"),
        ([("a.png", b""), ("a.cls", b"1"), ("./a.png", b"")], r"a has two images or two labels, a.png and \./a.png"),
        ([("a.png", b""), ("a.jpg", b""), ("a.cls", b"1")], "a has two images or two labels, a.png and a.jpg"),
        ([("a.png", b""), ("a.cls", b"1"), ("a.cls", b"2")], "a has two images or two labels, a.cls and a.cls"),
        (
            [("a.1.png", b""), ("a.1.cls", b"1")],
            "a has no image and no label .*; it has a.1.png, but keys end at",
        ),
        (
            [("a.1.png", b""), ("a.cls", b"1")],
            "a has a label .* but no image; it has a.1.png, but keys end",
        ),
        ([("a.npy", b""), ("b.npy", b"")], "a has no image and no label .*; it has a.npy"),
    ],
)
def test_incomplete_or_duplicate_members_raise(members, error, tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(ValueError, match=rf"/train-0\.tar: {error}"):
        find_sources(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_raise(kind, tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        folder, link = tarfile.TarInfo("a.png"), tarfile.TarInfo("b.png")
        folder.type = tarfile.DIRTYPE
        link.type, link.linkname = kind, "c.png"
        tar.addfile(folder)
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"/train-0\.tar: b\.png is a link or a sparse file"):
        find_sources(tmp_path)


class TestBrokenShards:
    @pytest.mark.parametrize(
        ("change", "error"),
        [
            (lambda content: b"\0" * 100, "is not a tar shard of images"),
            (lambda content: b"", "is not a tar shard .*: the file is empty"),
            (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "is not a tar shard .*: it is a Git LFS"),
            (lambda content: gzip.compress(content), "is compressed"),
            (lambda content: content[:900], "is not a tar shard of .*: unexpected end of data"),
            (lambda content: content[:2048], "is truncated: the two blocks of zeros"),
            (lambda content: content[:2048] + b"x" * 512 + content[2560:], "is broken: .* header at byte 2048"),
            (lambda content: content + content, "has content after its end"),
        ],
    )
    def test_raise_an_error_that_names_the_shard(self, change, error, tmp_path):
        """The shard has two members, each with a header and one block, followed by blocks of zeros."""
        shard(tmp_path / "train-0.tar", {"a.png": image(1), "a.cls": b"0"})
        path = tmp_path / "train-0.tar"
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(ValueError, match=rf"/train-0\.tar {error}"):
            find_sources(tmp_path)

    @pytest.mark.parametrize("ending", ["tar.gz", "tgz"])
    def test_compressed_shards_raise(self, ending, tmp_path):
        shards(tmp_path, [2])
        (tmp_path / f"train-001.{ending}").touch()
        with pytest.raises(
            ValueError, match=rf"/train-001\.{ending} is compressed; shards must be uncompressed tar files"
        ):
            find_sources(tmp_path)

    def test_broken_image_raises(self, tmp_path):
        shard(tmp_path / "train-0.tar", {"a.png": b"no image", "a.cls": b"0"})
        with pytest.raises(ValueError, match=r"/train-0\.tar: a\.png is broken: it is not an image"):
            find_sources(tmp_path).splits["train"].open(0)

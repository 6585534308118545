"""Read data sets with a broken file. The result is correct images or a one-line error that names the file."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from cnnmod.cli import run
from cnnmod.training.data import Data, open_data
from cnnmod.training.recipes import recipe
from fuzz.mutate import mutated
from pictures import encoded, oriented, parquet, picture, shard

SMALL = ["image_size=8", "epochs=1", "batch_size=2", "network_args.channels=[8,8,8,8]", "config.c=8"]
QUICK_AND_THOROUGH = [range(6), pytest.param(range(6, 1006), marks=pytest.mark.slow)]
FORMATS = ("png", "jpg", "gif", "tif", "bmp", "webp", "ppm", "jp2", "avif")


def write_class_folders(folder: Path) -> None:
    for split in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for place, ending in enumerate(FORMATS):
                image = picture((20 * place, 100 * number, 0), (12, 8))
                image.save(folder / split / name / f"{ending}.{ending}", exif=oriented(6))
            deep = (numpy.arange(96) * 600).reshape(8, 12).astype("uint16")
            Image.fromarray(deep).save(folder / split / name / "deep.png")
            image = picture(3, (12, 8), "P")
            image.putpalette(list(range(60)))
            image.save(folder / split / name / "palette.png", transparency=3)


def write_parquet(folder: Path) -> None:
    for name in ("train-0", "train-1", "test-0"):
        parquet(folder / f"{name}.parquet", [0, 1] * 3, ["cat", "dog"])


def write_strings(folder: Path) -> None:
    for name in ("train-0", "train-1", "test-0"):
        images = [encoded(picture((number, 0, 0))) for number in range(6)]
        parquet(folder / f"{name}.parquet", ["cat", "dog"] * 3, images=images)


def write_shards(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("train-0", "train-1", "val-0"):
        members: dict[str, bytes] = {}
        for number in range(4):
            members[f"v1.0/{number}.png"] = encoded(picture((number, 0, 0)))
            members[f"v1.0/{number}.cls"] = str(number % 2).encode()
        shard(folder / f"{name}.tar", members)


WRITERS = [write_class_folders, write_parquet, write_strings, write_shards]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def broken(write: Callable[[Path], None], seeds: range, folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield each seed and the file that it breaks. The file is restored afterwards."""
    folder.mkdir()
    write(folder)
    whole = contents(folder)
    for seed in seeds:
        path = sorted(whole)[seed % len(whole)]
        path.write_bytes(mutated(whole[path], seed))
        before = contents(folder)
        yield seed, path
        assert contents(folder) == before, f"seed {seed} changed the data"
        path.write_bytes(whole[path])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def images(data: Data) -> list[tuple[bytes, int]]:
    """Return all images with their labels."""
    return [
        (image.numpy().tobytes(), int(label))
        for split in (data.train, data.test)
        for batch in split.batches([torch.arange(len(split))])
        for image, label in zip(batch.images, batch.labels, strict=True)
    ]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("seeds", QUICK_AND_THOROUGH)
def test_broken_file_gives_correct_images_or_a_named_error(
    write: Callable[[Path], None], seeds: range, tmp_path: Path
) -> None:
    how = recipe("cifar10_fast", SMALL)
    write(tmp_path / "whole")
    whole = images(open_data(tmp_path / "whole", how))
    for seed, path in broken(write, seeds, tmp_path / "data"):
        error, found = None, []
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")  # PIL warns of some broken images
                found = images(open_data(tmp_path / "data", how))
        except (ValueError, OSError) as caught:
            error = str(caught)
        if error is not None:
            assert str(path) in error, f"seed {seed}"
            assert "\n" not in error, f"seed {seed}"
            assert len(error) < 600, f"seed {seed}"
        else:
            assert len(found) == len(whole), f"seed {seed}"
            if write is write_class_folders:
                assert sum(one != other for one, other in zip(found, whole, strict=True)) <= 1, f"seed {seed}"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_class_folders(folder / "classes")
    train = ["train", "cifar10_fast", "--data", str(folder / "classes"), "--out", str(folder / "run")]
    run([*train, "--set", *SMALL])
    return folder / "run"


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("seeds", QUICK_AND_THOROUGH)
def test_broken_file_prints_one_line_on_the_command_line(
    write: Callable[[Path], None], seeds: range, run_folder: Path, tmp_path: Path, capfd, monkeypatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    there = contents(run_folder)
    capfd.readouterr()
    for seed, _ in broken(write, seeds, tmp_path / "data"):
        code = 0
        try:
            run(["evaluate", str(run_folder / "best.safetensors"), "--data", str(tmp_path / "data"), "--json"])
        except SystemExit as stop:
            code = stop.code
        out, err = capfd.readouterr()
        if code:
            assert (code, out, err.count("\n")) == (2, "", 1), f"seed {seed}: {err}"
            assert err.startswith("cnnmod: "), f"seed {seed}: {err}"
        assert not list((tmp_path / "work").iterdir()), f"seed {seed}"
    assert contents(run_folder) == there

"""Train and evaluate with broken annotations, masks and folders."""

import random
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cnnmod.cli import run
from fuzz.mutate import mutated
from fuzz.outcome import SEEDS, outcome, trial
from pictures import cells, streets

SMALL = ["epochs=1", "warmup_epochs=0", 'network_args.backbone_args={"channels":[8,8,8,8]}', "config.c=8"]
CHANGES = {
    "camvid": [*SMALL, "image_size=[48,64]", "crop_size=[48,64]", 'classes=["road","box"]', "ignore=9"],
    "bccd": [*SMALL, "image_size=[64,80]", "network_args.pyramid_channels=8"],
}
MAKE = {"camvid": streets, "bccd": cells}

pytestmark = pytest.mark.filterwarnings("default")  # PIL warns about some broken images


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A data set and a checkpoint for each recipe."""
    made = {}
    for name in CHANGES:
        folder = tmp_path_factory.mktemp(name)
        data = MAKE[name](folder / "data", train=4, val=2)
        run([*_train(name, data, folder / "run"), "batch_size=4"])
        made[name] = data, folder / "run" / "best.safetensors"
    return made


@pytest.fixture
def read(checkpoints, tmp_path, capsys, monkeypatch):
    """A function that reads the data in an evaluation, or in a training that fails before its first step."""
    monkeypatch.chdir(tmp_path)

    def check(name: str, data: Path, training: bool) -> None:
        if training:
            assert outcome([*_train(name, data, tmp_path / "run"), "batch_size=1000"], capsys, tmp_path) == 2
        else:
            evaluate = ["evaluate", str(checkpoints[name][1]), "--data", str(data), "--workers", "0"]
            outcome(evaluate, capsys, tmp_path)

    return check


def _train(name: str, data: Path, out: Path) -> list[str]:
    where = ["--data", str(data), "--out", str(out)]
    return ["train", name, *where, "--row", "baseline", "--workers", "0", "--set", *CHANGES[name]]


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize(("name", "label"), [("bccd", "Annotations/cell5.xml"), ("camvid", "valannot/val1.png")])
def test_broken_labels_are_handled(name, label, seeds, checkpoints, read, tmp_path):
    for seed in seeds:
        with trial(seed, tmp_path / "trial") as folder:
            data = Path(shutil.copytree(checkpoints[name][0], folder / "data"))
            path = data / label
            path.write_bytes(mutated(path.read_bytes(), seed))
            read(name, data, training=seed % 2 == 1)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("name", CHANGES)
def test_broken_folders_are_handled(name, seeds, checkpoints, read, tmp_path):
    for seed in seeds:
        with trial(seed, tmp_path / "trial") as folder:
            data = Path(shutil.copytree(checkpoints[name][0], folder / "data"))
            draw = random.Random(seed)
            for _ in range(draw.choice((1, 1, 2, 4))):
                if paths := sorted(data.rglob("*")):
                    draw.choice(FAULTS)(draw.choice(paths), draw)
            read(name, data, training=seed % 2 == 1)


def _missing(path: Path, _: random.Random) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _a_folder(path: Path, draw: random.Random) -> None:
    _missing(path, draw)
    path.mkdir()


def _a_link_to_nothing(path: Path, draw: random.Random) -> None:
    _missing(path, draw)
    path.symlink_to("nothing")


def _renamed(path: Path, draw: random.Random) -> None:
    other = path.with_name(draw.choice(("x", ".x", f"{path.name}.bak", path.name.upper(), f"é {path.name}")))
    if not other.exists():
        path.rename(other)


def _beside(path: Path, draw: random.Random) -> None:
    (path.parent / draw.choice((".DS_Store", "._x.png", "Thumbs.db", "x.jpg", "x.xml", "x.txt"))).write_bytes(b"\0\1")


def _broken(path: Path, draw: random.Random) -> None:
    if path.is_file():
        path.write_bytes(mutated(path.read_bytes(), draw.randrange(1 << 30)))


def _another_image(path: Path, draw: random.Random) -> None:
    if path.suffix in (".png", ".jpg") and path.is_file():
        mode, size = draw.choice(("1", "L", "P", "RGB")), draw.choice(((64, 48), (80, 64), (1, 1), (3, 500)))
        Image.new(mode, size, draw.choice((0, 1, 9, 200)) if mode in "LP" else 0).save(path, "PNG")


FAULTS = (_missing, _a_folder, _a_link_to_nothing, _renamed, _beside, _broken, _broken, _another_image)

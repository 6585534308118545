"""The commands and the code of docs/finetune.md, as typed, with a network that knows nothing of cnnmod."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from my_net import make
from PIL import Image, ImageDraw
from recipe_table import rendered

from cnnmod import mod_blocks
from cnnmod.cli import run
from cnnmod.networks.own import open_network

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8")
LOOP, SERVE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TRAIN, COMPARE, EXPORT = (
    shlex.split(line.replace("\\\n", " "))[1:]
    for line in re.findall(
        r"^cnnmod (?:[^\n]|\\\n)+", re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)[0].replace("\\\n", " "), re.M
    )
)
WITHOUT_TORCH = """
import sys
sys.modules |= dict.fromkeys(("torch", "torchvision", "timm", "cnnmod"))
"""


def photos(folder, count):
    """Write images of two classes, bright disks and bright squares, at 80 × 64 pixels."""
    for split in ("train", "val"):
        for label, name in enumerate(("disk", "square")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (80, 64), (30 + number, 40, 60))
                draw = [ImageDraw.Draw(image).ellipse, ImageDraw.Draw(image).rectangle][label]
                draw((16 + number, 12, 56 + number, 52), fill=(220, 200 - 40 * label, 90))
                image.save(folder / split / name / f"{number}.jpg", quality=95)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the page expects."""
    folder = tmp_path_factory.mktemp("finetune")
    shutil.copy(Path(__file__).parent / "my_net.py", folder)
    photos(folder / "photos", 10)
    torch.manual_seed(0)
    torch.save(make(2).state_dict(), folder / "my_net.pth")
    return folder


@pytest.mark.slow
def test_commands_work_as_typed_and_the_file_serves_an_image_without_torch(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    run([*TRAIN, "epochs=2", "batch_size=8", "--workers", "0"])
    assert "mod, seed 0: top-1 is" in " ".join(capsys.readouterr().out.split())
    run([*COMPARE, "--rounds", "1"])  # as typed, but shorter
    assert "my_net:make MoD" in capsys.readouterr().out
    run(EXPORT)
    for name in ("disk", "square"):
        image = folder / "photos" / "val" / name / "3.jpg"
        shutil.copy(image, folder / "image.jpg")
        served = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH + SERVE + "print(logits.tolist())"], capture_output=True, text=True
        )
        assert served.returncode == 0, served.stderr
        logits = torch.tensor(json.loads(served.stdout.splitlines()[1]))
        capsys.readouterr()
        network = ["--network", "my_net:make", "--json"]
        run(["predict", "runs/photos/mod-seed0/best.safetensors", "image.jpg", *network])
        (predicted,) = json.loads(capsys.readouterr().out)
        expected = [predicted["classes"][name] for name in ("disk", "square")]
        torch.testing.assert_close(logits.softmax(1)[0], torch.tensor(expected), rtol=0, atol=2e-3)


@pytest.fixture
def loop(folder, monkeypatch):
    """Run the training loop of the page, and return its variables."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("my_net.make.__defaults__", (2,))  # as many classes as the weights
    found = {"loader": [(torch.rand(4, 3, 64, 64), torch.randint(0, 2, (4,))) for _ in range(3)]}
    exec(LOOP, found)
    return found


def test_training_loop_has_20_lines_and_trains_the_blocks(loop):
    assert len(LOOP.partition("torch.nn.functional import")[2].strip().splitlines()[1:]) <= 20
    gains = [block.gain_K for block in mod_blocks(loop["model"]).values() if block.gain_K is not None]
    assert max(float(gain.detach().abs().max()) for gain in gains) > 0.02
    fresh = open_network("my_net_mod.safetensors", network="my_net:make", size=(64, 64)).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(fresh(images), loop["model"](images))


@pytest.mark.slow
def test_result_of_the_training_loop_can_be_exported(loop, capsys):
    (command,) = re.findall(r"`cnnmod (export my_net_mod\.safetensors [^`]*)`", PAGE)
    run([*command.split(), "--json"])
    assert json.loads(capsys.readouterr().out)["largest_error"] < 1e-3


def test_table_lists_every_field_of_the_recipe():
    assert rendered(PAGE) == PAGE, "run python benchmarks/recipe_table.py"
    assert "`optimization.mod_lr_scale` | `30.0`" in PAGE

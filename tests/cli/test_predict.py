import json
import shutil
from pathlib import Path

import onnx
import pytest
from PIL import Image

from cnnmod.cli import run
from pictures import cells, picture, streets

SMALL = [
    "--set",
    "epochs=1",
    "batch_size=2",
    'network_args.backbone_args={"channels": [8, 16, 32, 64], "layers": [2, 1, 1, 1]}',
    "config.c=8",
]
STREETS = [*SMALL, 'classes=["road", "box"]', "ignore=9", "image_size=[48,64]", "crop_size=[32,40]"]
CELLS = [*SMALL, "image_size=[64,80]", "warmup_epochs=0", "network_args.pyramid_channels=8"]


def onnx_shape(path: Path) -> list[int]:
    return [size.dim_value for size in onnx.load(path).graph.input[0].type.tensor_type.shape.dim[1:]]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set, and the folder of a run on it."""
    folder = tmp_path_factory.mktemp("streets")
    data = streets(folder / "data", train=4, val=3)
    run(["train", "camvid", "--data", str(data), "--out", str(folder / "run"), *STREETS])
    return data, folder / "run"


@pytest.mark.slow
def test_folder_of_images_is_segmented(segmenter: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    data, folder = segmenter
    accuracy = json.loads((folder / "result.json").read_text())["accuracy"]
    checkpoint = str(folder / "best.safetensors")
    capsys.readouterr()
    run(["evaluate", checkpoint, "--data", str(data), "--json"])
    assert json.loads(capsys.readouterr().out) == accuracy
    run(["evaluate", checkpoint, "--data", str(data)])
    assert f"mIoU {accuracy['miou_pct']:.2f} %" in capsys.readouterr().out
    run(["export", checkpoint, "--out", str(tmp_path / "network.onnx"), "--json"])
    assert json.loads(capsys.readouterr().out)["largest_error"] < 1e-4
    assert onnx_shape(tmp_path / "network.onnx") == [3, 48, 64]
    run(["predict", checkpoint, str(data / "val"), "--out", str(tmp_path / "pictures"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert [Path(one["image"]).name for one in said] == ["val0.png", "val1.png", "val2.png"]
    for one in said:
        assert sum(one["pixels"].values()) == 48 * 64
        with Image.open(one["picture"]) as drawn:
            assert drawn.width > 64


def test_broken_images_are_skipped(segmenter: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.TIF", "b.gif", "._c.png"):
        picture((40, 90, 200), (64, 48)).save(images / name)
    arguments = ["predict", str(segmenter[1] / "best.safetensors"), str(images), "--out", str(tmp_path / "out")]
    (images / "d.jpg").write_bytes(b"no image")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(arguments)
    assert stop.value.code == 2
    run([*arguments, "--skip-broken", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert [Path(one["image"]).name for one in said] == ["a.TIF", "b.gif", "d.jpg"]
    assert said[2]["broken"].startswith(f"{images}/d.jpg is broken: it is not an image")
    assert "picture" not in said[2]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "contact_sheet.png"]
    run([*arguments, "--skip-broken"])
    assert "d.jpg is broken" in "".join(capsys.readouterr().out.split("\n"))
    with pytest.raises(SystemExit) as stop:
        run(["predict", arguments[1], str(images / "d.jpg"), "--out", str(tmp_path / "out"), "--skip-broken"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("cnnmod: all 1 images are broken; the first error: ")


@pytest.mark.slow
def test_boxes_are_drawn(tmp_path: Path, capsys) -> None:
    data = cells(tmp_path / "data", train=4, val=2)
    run(["train", "bccd", "--data", str(data), "--out", str(tmp_path / "run"), *CELLS])
    assert "AP50" in capsys.readouterr().out
    image = str(data / "JPEGImages" / "cell0.jpg")
    run(["predict", str(tmp_path / "run" / "best.safetensors"), image, "--out", str(tmp_path), "--threshold", "0"])
    assert "cell0.png: " in capsys.readouterr().out
    assert (tmp_path / "cell0.png").exists()


def test_checkpoint_with_other_classes_raises(segmenter: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    data, folder = segmenter
    shutil.copytree(folder, tmp_path / "run")
    run_json = tmp_path / "run" / "run.json"
    content = json.loads(run_json.read_text())
    content["classes"] = ["road", "house"]
    run_json.write_text(json.dumps(content))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(["evaluate", str(tmp_path / "run" / "best.safetensors"), "--data", str(data)])
    assert "has 2 classes, the data set has 2; the first difference is 'house' and 'box'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "none.safetensors", "file"], "the file none.safetensors does not exist"),
        (["predict", "none.safetensors"], "predict needs at least one image or folder after the checkpoint"),
        (["predict", "none.safetensors", "none.jpg"], "the image or folder none.jpg does not exist"),
        (["predict", "none.safetensors", "."], "the folder . contains no images"),
        (["predict", "none.safetensors", "file", "--threshold", "2"], "--threshold must be from 0 to 1, not 2.0"),
        (["predict", "none.safetensors", "file", "file"], "file and file would both be drawn as file.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_print_one_line_and_exit_2(arguments, message, mistake) -> None:
    mistake(arguments, message)


def test_picture_does_not_overwrite_its_image(tmp_path: Path, capsys) -> None:
    data = streets(tmp_path, val=1)
    before = (data / "val" / "val0.png").read_bytes()
    with pytest.raises(SystemExit):
        run(["predict", "none.safetensors", str(data / "val" / "val0.png"), "--out", str(data / "val")])
    assert "would overwrite the image" in capsys.readouterr().err
    assert (data / "val" / "val0.png").read_bytes() == before

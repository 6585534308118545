import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from cnnmod import control_, save
from cnnmod.networks import build, build_mod
from cnnmod.report.prediction import prediction_figure
from cnnmod.training.data import open_data
from cnnmod.training.folder import Run
from cnnmod.training.images import Broken
from cnnmod.training.predict import Predictor
from cnnmod.training.predictions import Boxes, ClassMap, TopClasses
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import build_row
from cnnmod.training.run import run_training
from pictures import cells, classes, oriented, picture, streets

SMALL = ["epochs=2", "batch_size=2", 'network_args.backbone_args={"channels": [8, 16, 32, 64]}', "config.c=8"]
STREETS = [*SMALL, 'classes=["road", "box"]', "ignore=9", "image_size=[48,64]", "crop_size=[32,40]", "optimizer=adamw"]
CELLS = [
    *SMALL,
    "image_size=[64,80]",
    "network_args.min_size=[56,64]",
    "warmup_epochs=0",
    "network_args.pyramid_channels=8",
]


def trained(name: str, changes: list[str], data: Path, folder: Path, **kwargs: Any) -> Any:
    made = recipe(name, changes)
    run = Run(recipe=made, row="mod", seed=0, data=str(data))
    return run_training(run, folder, open_data(data, made), **kwargs)


@pytest.fixture(scope="module")
def street_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set, and the checkpoint of a segmentation network trained on it."""
    folder = tmp_path_factory.mktemp("streets")
    data = streets(folder / "data", train=4, val=2)
    trained("camvid", [*STREETS, "epochs=1"], data, folder / "run")
    return data, folder / "run" / "best.safetensors"


@pytest.fixture(scope="module", params=["crop_flip", "resized_crop"])
def class_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set with three classes, and the checkpoint of a classifier trained on it."""
    folder = tmp_path_factory.mktemp("classes")
    for split in ("train", "val"):
        classes(folder / "data", split, ["cat", "dog", "owl"])
    small = ["epochs=1", "batch_size=2", "network_args.channels=[8,8,8,8]", "image_size=16", "config.c=8"]
    trained("cifar10_fast", [*small, f"augmentation={request.param}"], folder / "data", folder / "run")
    return folder / "data", folder / "run" / "best.safetensors"


def test_class_map_has_the_size_of_the_image(street_run: tuple[Path, Path], tmp_path: Path) -> None:
    data, checkpoint = street_run
    predictor = Predictor.load(checkpoint)
    large = tmp_path / "large.png"
    picture((40, 90, 200), (130, 90)).save(large)
    found = dict(predictor.predict([data / "val" / "val0.png", large]))
    for file, size in ((data / "val" / "val0.png", (48, 64)), (large, (90, 130))):
        prediction = found[file]
        assert isinstance(prediction, ClassMap)
        assert prediction.labels_HW.shape == size
    assert [predictor.name(label) for label in (0, 1)] == ["road", "box"]


@pytest.mark.slow
def test_boxes_are_in_pixels_and_above_the_threshold(tmp_path: Path) -> None:
    data = cells(tmp_path / "data", train=4, val=2)
    trained("bccd", CELLS, data, tmp_path / "run")
    predictor = Predictor.load(tmp_path / "run" / "best.safetensors")
    files = sorted((data / "JPEGImages").iterdir())
    counts = []
    for threshold in (0.0, 0.2, 1.0):
        predictions = [prediction for _, prediction in predictor.predict(files, threshold)]
        assert all(isinstance(prediction, Boxes) for prediction in predictions)
        assert all(score >= threshold for prediction in predictions for score in prediction.scores)
        assert all((prediction.boxes <= torch.tensor([80, 64, 80, 64])).all() for prediction in predictions)
        counts.append(sum(len(prediction.scores) for prediction in predictions))
    assert counts[0] > 0
    assert counts == sorted(counts, reverse=True)
    assert predictor.name(1) == "cell"


def test_classifier_returns_the_most_probable_classes(class_run: tuple[Path, Path]) -> None:
    data, checkpoint = class_run
    predictor = Predictor.load(checkpoint)
    ((_, found),) = predictor.predict([data / "val" / "dog" / "0.png"])
    assert isinstance(found, TopClasses)
    assert {predictor.name(label) for label in found.labels} == {"cat", "dog", "owl"}
    assert found.probabilities == sorted(found.probabilities, reverse=True)
    assert sum(found.probabilities) == pytest.approx(1, abs=1e-3)


def test_classifier_applies_the_exif_orientation(class_run: tuple[Path, Path], tmp_path: Path) -> None:
    predictor = Predictor.load(class_run[1])
    shown = Image.effect_noise((16, 16), 90).convert("RGB")
    shown.save(tmp_path / "shown.png")
    shown.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "stored.png", exif=oriented(6))
    Image.fromarray(numpy.array(shown.convert("L")) * numpy.uint16(256)).save(tmp_path / "deep.png")
    shown.convert("L").save(tmp_path / "gray.png")
    (_, first), (_, second), (_, deep), (_, gray) = predictor.predict(
        [tmp_path / f"{name}.png" for name in ("shown", "stored", "deep", "gray")]
    )
    assert first == second
    assert deep == gray


def test_error_names_the_broken_image(street_run: tuple[Path, Path], tmp_path: Path) -> None:
    data, checkpoint = street_run
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    predictor = Predictor.load(checkpoint)
    with pytest.raises(ValueError, match=r"broken.jpg is broken"):
        list(predictor.predict([tmp_path / "broken.jpg"]))
    files = [data / "val" / "val0.png", tmp_path / "broken.jpg", data / "val" / "val1.png"]
    found = list(predictor.predict(files, skip_broken=True))
    assert [file for file, _ in found] == files
    assert [type(prediction) for _, prediction in found] == [ClassMap, Broken, ClassMap]
    assert isinstance(found[1][1], Broken)
    assert found[1][1].reason.startswith(f"{tmp_path}/broken.jpg is broken: ")


def test_class_map_applies_the_exif_orientation(street_run: tuple[Path, Path], tmp_path: Path) -> None:
    picture((40, 90, 200), (60, 48)).save(tmp_path / "turned.jpg", exif=oriented(8))
    ((file, found),) = Predictor.load(street_run[1]).predict([tmp_path / "turned.jpg"])
    assert isinstance(found, ClassMap)
    assert found.labels_HW.shape == (60, 48)
    prediction_figure(file, found, str, tmp_path / "drawn.png")  # requires a class map of the size of the image


@pytest.mark.parametrize(
    ("name", "changes", "make"),
    [("camvid", STREETS, streets), pytest.param("bccd", CELLS, cells, marks=pytest.mark.slow)],
)
def test_backbone_is_initialized_from_a_classifier(name: str, changes: list[str], make: Any, tmp_path: Path) -> None:
    made = recipe(name, [*changes, f"backbone_weights={tmp_path}/{{row}}.safetensors"])
    arguments = made.networks.network_args["backbone_args"]
    for row in ("baseline", "mod", "control"):
        model = (
            build("resnet18", **arguments)
            if row == "baseline"
            else build_mod("resnet18", made.networks.config, **arguments)
        )
        save(control_(model) if row == "control" else model, tmp_path / f"{row}.safetensors")
        started = build_row(made, row, 3).backbone
        body = started.body if name == "bccd" else started
        assert torch.equal(body.get_parameter("layer3.0.conv2.weight"), model.layer3[0].conv2.weight)
        assert len(body.state_dict()) == len(model.state_dict()) - 2  # without the weight and bias of the last layer
    (tmp_path / "mod.safetensors").unlink()
    shutil.copy(tmp_path / "baseline.safetensors", tmp_path / "mod.safetensors")
    with pytest.raises(ValueError, match=r"of another backbone: layer1.1.* is missing in the file"):
        build_row(made, "mod", 3)


def test_frozen_norms_require_a_trained_backbone() -> None:
    with pytest.raises(ValueError, match=r"frozen_norms needs a trained backbone; set its checkpoint"):
        build_row(recipe("voc"), "baseline", 3)


@pytest.mark.parametrize(
    ("name", "changes", "make"),
    [("camvid", STREETS, streets), pytest.param("bccd", CELLS, cells, marks=pytest.mark.slow)],
)
def test_interrupted_training_reaches_the_same_weights(
    name: str, changes: list[str], make: Any, tmp_path: Path
) -> None:
    data = make(tmp_path / "data", train=6, val=2)
    whole = trained(name, changes, data, tmp_path / "whole")

    def cut_off(what: str, done: int, total: int, rate: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(name, changes, data, tmp_path / "again", progress=cut_off, save_every_s=0)
    again = trained(name, changes, data, tmp_path / "again")
    assert again.accuracy == whole.accuracy
    files = [(tmp_path / run / "last.safetensors").read_bytes() for run in ("whole", "again")]
    assert files[0] == files[1]

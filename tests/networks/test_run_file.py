import json

import pytest

from cnnmod.networks.run_file import TrainedOn, trained_on
from cnnmod.training.folder import Run
from cnnmod.training.recipes import recipe


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "best.safetensors"
    path.touch()
    return path


def write(checkpoint, values):
    (checkpoint.parent / "run.json").write_text(json.dumps(values))


def test_images_of_a_run_are_those_of_its_recipe(checkpoint):
    for name in ("digits", "camvid"):
        run = Run(recipe=recipe(name), row="mod", seed=0, data="data")
        write(checkpoint, {"run": run.to_dict(), "classes": ["cat", "dog"]})
        images = run.recipe.images
        expected = TrainedOn(size=images.size, mean=images.mean, std=images.std, classes=["cat", "dog"])
        assert trained_on(checkpoint) == expected


def test_recipe_without_parts_is_read(checkpoint):
    write(checkpoint, {"run": {"recipe": {"image_size": [8, 9], "mean": [0.5], "std": [1], "epochs": 1}}})
    assert trained_on(checkpoint) == TrainedOn(size=(8, 9), mean=(0.5,), std=(1,), classes=None)


def test_no_run_folder_is_none(checkpoint):
    assert trained_on(checkpoint) is None


def test_missing_checkpoint_is_none(checkpoint):
    write(checkpoint, {})
    assert trained_on(checkpoint.with_name("last.safetensors")) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "does not say how images are prepared"),
        ({"run": {"recipe": {"images": {"image_size": 8}}}}, "does not say how images are prepared"),
        ({"run": {"recipe": {"image_size": "8", "mean": [], "std": []}}}, "run.json: size must be a list, not '8'"),
        ({"run": {"recipe": {"image_size": 0, "mean": [], "std": []}}}, "image_size must be ≥ 1, not 0"),
    ],
)
def test_invalid_file_raises(checkpoint, values, message):
    write(checkpoint, values)
    with pytest.raises(ValueError, match=message):
        trained_on(checkpoint)

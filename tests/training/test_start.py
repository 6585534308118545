import pytest
import torch

from cnnmod.training.recipes import recipe
from cnnmod.training.start import checked_start
from small import color_network

SMALL = ["image_size=8", "config.c=4"]


def test_error_of_a_later_row_is_raised_before_the_first_is_trained():
    made = recipe(
        "digits", ["network=small:densenet", "network_args={}", "in_channels=3", "mean=[0,0,0]", "std=[1,1,1]"]
    )
    assert checked_start(made, ["baseline"], 10) == made
    with pytest.raises(ValueError, match="densenet"):
        checked_start(made, ["baseline", "mod"], 10)


def test_recipe_has_no_teacher_if_the_weights_have_other_classes(tmp_path, caplog):
    torch.save(color_network(3).state_dict(), tmp_path / "own.pth")
    made = recipe("finetune", SMALL, network="small:color_network", weights=tmp_path / "own.pth")
    assert checked_start(made, ["mod"], 3) == made
    assert not caplog.records
    assert checked_start(made, ["mod"], 4) == made.changed(["teacher=None"])
    assert "own.pth has 3 classes, the data set has 4: head is a new layer" in caplog.text

import pytest

from cnnmod.training.data import open_data
from cnnmod.training.folder import Run
from cnnmod.training.recipes import recipe
from cnnmod.training.run import run_training
from cnnmod.training.tasks import Classification
from pictures import cells, city


def test_recipes_have_the_settings_of_the_paper():
    imagenet = recipe("imagenet")
    options = imagenet.optimization
    assert (options.epochs, options.batch_size, options.learning_rate) == (100, 256, 0.1)
    assert (options.milestones, options.decay, options.weight_decay) == ((30, 60, 90), 0.1, 1e-4)
    assert recipe("cifar10").optimization.milestones == (90, 136)
    assert recipe("cifar100").optimization.milestones == (60, 120, 160)
    assert recipe("cifar10").task == Classification(augmentation="crop_flip", validation_fraction=0.1)
    assert recipe("cifar10_fast").optimization.epochs <= 10


def test_changes_are_applied():
    made = recipe("cifar10", ["epochs=3"])
    assert made.optimization.epochs == 3
    assert made == recipe("cifar10").changed(["epochs=3"])


def test_unknown_recipe_raises():
    with pytest.raises(ValueError, match="unknown recipe 'cifar'; did you mean cifar10"):
        recipe("cifar")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cityscapes", ["image_size=[32,64]", "crop_size=[32,32]"]),
        ("voc", ["image_size=[64,80]", "network_args.frozen_norms=false"]),
    ],
)
@pytest.mark.parametrize("row", ["baseline", "mod", "control"])
def test_paper_networks_can_be_trained(name, changes, row, tmp_path):
    data = city(tmp_path / "data", train=2, val=1) if name == "cityscapes" else cells(tmp_path / "data", train=2, val=1)
    made = recipe(name, [*changes, "epochs=1", "batch_size=2", "warmup_epochs=0"])
    run = Run(recipe=made, row=row, seed=0, data=str(data))
    found = run_training(run, tmp_path / "run", open_data(data, made))
    assert found.accuracy.images == 1

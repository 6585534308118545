import json

import pytest

from cnnmod import MoDConfig
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_there_and_back(name):
    made = recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_the_papers():
    imagenet = recipe("imagenet")
    assert (imagenet.epochs, imagenet.batch_size, imagenet.learning_rate) == (100, 256, 0.1)
    assert (imagenet.milestones, imagenet.decay, imagenet.weight_decay) == ((30, 60, 90), 0.1, 1e-4)
    assert recipe("cifar10").milestones == (90, 136)
    assert recipe("cifar100").milestones == (60, 120, 160)
    assert recipe("cifar10").validation_fraction == 0.1
    assert recipe("cifar10_fast").epochs <= 10


def test_changes():
    made = recipe(
        "cifar10", ["epochs=3", "config.order=index", "config.c=None", "network_args.layers=[1,2]", "teacher=a"]
    )
    assert (made.epochs, made.config, made.teacher) == (3, MoDConfig(order="index"), "a")
    assert made.network_args == {"layers": [1, 2]}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("epoch=3", "unknown recipe field 'epoch'; did you mean epochs"),
        ("config.odrer=index", "unknown config field 'odrer'; did you mean order"),
        ("config.order=random", "order must be one of 'score', 'index', not 'random'"),
        ("epochs", "a change is field=value, not 'epochs'"),
        ("epochs=x", "epochs is 'x', not <class 'int'>"),
        ("epochs=0", "epochs must be ≥ 1, not 0"),
        ("learning_rate=-1", "learning_rate must be > 0, not -1"),
        ("weight_decay=-1", "weight_decay must be ≥ 0, not -1"),
        ("validation_fraction=1", "validation_fraction must be from 0 to less than 1, not 1"),
        ("distill_weight=2", "distill_weight must be from 0 to 1, not 2"),
        ("train_images=0", "train_images must be ≥ 1 or None, not 0"),
        ("in_channels=1", "mean and std must have 1 numbers"),
        ("milestones=[]", "needs milestones"),
        ("auto_augment=rand-m7", "go with the augmentation 'resized_crop', not 'crop_flip'"),
        ("schedule=linear", "schedule is 'linear', not"),
    ],
)
def test_changes_that_do_not_fit(change, error):
    with pytest.raises(ValueError, match=error):
        recipe("cifar10", [change])


def test_unknown_recipes():
    with pytest.raises(ValueError, match="unknown recipe 'cifar'; did you mean cifar10"):
        recipe("cifar")

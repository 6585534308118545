import dataclasses
import json
import math

import pytest

from cnnmod import MoDConfig
from cnnmod.training.recipe import Recipe, unknown_name
from cnnmod.training.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_there_and_back(name):
    made = recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_there_and_back_with_every_field_changed():
    made = dataclasses.replace(
        recipe("imagenet"),
        network_args={"layers": [1, 2]},
        config=MoDConfig(c=8, order="index", placement=("layer1.1",)),
        mean=(0.1, 0.2, 0.3),
        milestones=(1, 2),
        teacher="timm/resnet18",
        train_images=7,
    )
    values = made.to_dict()
    assert values["milestones"] == [1, 2]  # JSON's, not a tuple
    assert values["config"]["order"] == "index"
    assert Recipe.from_dict(values) == made


def test_a_missing_field_takes_its_default_and_an_unknown_one_is_an_error():
    values = recipe("cifar10").to_dict()
    del values["milestones"], values["config"]
    made = Recipe.from_dict(values | {"schedule": "cosine"})
    assert (made.milestones, made.config) == ((), MoDConfig())
    with pytest.raises(ValueError, match="unknown recipe field 'epoch'; did you mean epochs"):
        Recipe.from_dict(values | {"epoch": 3})
    with pytest.raises(ValueError, match="epochs is '3', not"):
        Recipe.from_dict(values | {"epochs": "3"})


def test_changes():
    plain = recipe("cifar10")
    made = plain.changed(
        ["epochs=3", "config.order=index", "config.c=None", "network_args.layers=[1,2]", "teacher=a=b", "compile=True"]
    )
    assert (made.epochs, made.config, made.teacher) == (3, MoDConfig(order="index"), "a=b")
    assert made.network_args == {"layers": [1, 2]}
    assert made.compile is True
    assert made.changed(["teacher=None", "compile=false"]).teacher is None
    assert plain == recipe("cifar10")
    assert plain.changed([]) == plain


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("epoch=3", "unknown recipe field 'epoch'; did you mean epochs"),
        ("optimizer.name=sgd", "unknown recipe field 'optimizer.name'; did you mean optimizer"),
        ("config.odrer=index", "unknown config field 'odrer'; did you mean order"),
        ("config.order=random", "order must be one of 'score', 'index', not 'random'"),
        ("epochs", "a change is field=value, not 'epochs'"),
        ("epochs=x", "epochs is 'x', not <class 'int'>"),
        ("train_images=0", "train_images must be ≥ 1 or None, not 0"),
        ("in_channels=1", "mean and std must have 1 numbers"),
        ("std=[1]", "mean and std must have 3 numbers"),
        ("mean=[0]", "mean and std must have 3 numbers"),
        ("milestones=[]", "needs milestones"),
        ("auto_augment=rand-m7", "go with the augmentation 'resized_crop', not 'crop_flip'"),
        ("random_erasing=0.5", "go with the augmentation 'resized_crop', not 'crop_flip'"),
        ("schedule=linear", "schedule is 'linear', not"),
    ],
)
def test_changes_that_do_not_fit(change, error):
    with pytest.raises(ValueError, match=error):
        recipe("cifar10", [change])


RANGES = {  # the error's words: a value below, one that is accepted, one above
    "≥ 1": (0, 1, None),
    "> 0": (0, 1e-9, None),
    "≥ 0": (-1, 0, None),
    "from 0 to less than 1": (-0.1, 0, 1),
    "from 0 to 1": (-0.1, 1, 1.1),
}
FIELDS = {
    "≥ 1": ("epochs", "batch_size", "accumulate"),
    "> 0": ("learning_rate", "distill_temperature", "crop_pct"),
    "≥ 0": ("weight_decay", "momentum", "warmup_epochs", "mixup", "cutmix", "clip_grad", "decay"),
    "from 0 to less than 1": ("validation_fraction", "label_smoothing", "ema_decay"),
    "from 0 to 1": ("distill_weight", "random_erasing"),
}


@pytest.mark.parametrize(("words", "name"), [(words, name) for words, names in FIELDS.items() for name in names])
def test_ranges(words, name):
    below, accepted, above = RANGES[words]
    made = recipe("imagenet")
    assert getattr(dataclasses.replace(made, **{name: accepted}), name) == accepted
    for wrong in (below, above, None if words == "≥ 1" else math.nan):
        if wrong is not None:
            with pytest.raises(ValueError, match=f"^{name} must be {words}, not {wrong}$"):
                dataclasses.replace(made, **{name: wrong})


def test_no_channels():
    with pytest.raises(ValueError, match="in_channels must be ≥ 1, not 0"):
        dataclasses.replace(recipe("digits"), in_channels=0, mean=(), std=())


def test_unknown_names():
    known = {"epochs": 1, "momentum": 2}
    assert unknown_name("field", "epoch", known) == "unknown field 'epoch'; did you mean epochs?"
    assert unknown_name("field", "zzz", known) == "unknown field 'zzz'; there are epochs, momentum"

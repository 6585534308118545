import json

import pytest

from cnnmod import MoDConfig
from cnnmod.training.options import ImageOptions, Networks, Optimization, System
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import RECIPES, recipe
from cnnmod.training.tasks import Classification, Segmentation


@pytest.mark.parametrize("name", RECIPES)
def test_dictionary_round_trip(name):
    made = recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_dictionary_round_trip_with_every_part_changed():
    made = Recipe(
        networks=Networks(
            baseline="a",
            network="b",
            network_args={"layers": [1, 2]},
            config=MoDConfig(c=8, order="index", placement=("layer1.1",)),
        ),
        task=Classification(teacher="timm/resnet18", mixup=0.5),
        images=ImageOptions(image_size=(8, 8), mean=(0.1, 0.2, 0.3), train_images=7),
        optimization=Optimization(
            epochs=1, batch_size=2, learning_rate=0.1, weight_decay=0, schedule="step", milestones=(1, 2)
        ),
        system=System(precision="bf16"),
    )
    values = made.to_dict()
    assert values["optimization"]["milestones"] == [1, 2]  # a list, as in JSON
    assert values["networks"]["config"]["order"] == "index"
    assert values["task"] | {"name": "classification", "teacher": "timm/resnet18"} == values["task"]
    assert Recipe.from_dict(json.loads(json.dumps(values))) == made


def without(values, path):
    *parents, last = path.split(".")
    holder = values = json.loads(json.dumps(values))
    for parent in parents:
        holder = holder[parent]
    del holder[last]
    return values


def test_missing_field_gets_its_default():
    values = recipe("cifar10_fast").to_dict()
    for path in ("networks.config", "optimization.milestones", "system.channels_last"):
        values = without(values, path)
    made = Recipe.from_dict(values)
    assert (made.networks.config, made.optimization.milestones, made.system) == (MoDConfig(), (), System())
    assert Recipe.from_dict(without(values, "system")) == made


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("optimization.epoch", 3, r"unknown recipe field 'optimization\.epoch'; did you mean optimization\.epochs"),
        ("optimization.epochs", "3", r"optimization\.epochs must be int, not '3'"),
        ("optimization", [], r"optimization must be an object, not \[\]"),
        ("task", "classification", "task must be an object with a name, not 'classification'"),
        ("task", {"name": ["segmentation"]}, r"task must be an object with a name, not \{'name': \['segmentation'\]\}"),
        ("task.name", "segmentatoin", "unknown task 'segmentatoin'; did you mean segmentation"),
        ("task.classes", [], r"unknown recipe field 'task\.classes'"),
        ("optimisation", {}, "unknown recipe part 'optimisation'; the parts are networks, images, optimization"),
    ],
)
def test_invalid_values_raise(path, value, error):
    values = recipe("cifar10").to_dict()
    *parents, last = path.split(".")
    holder = values
    for parent in parents:
        holder = holder[parent]
    holder[last] = value
    with pytest.raises(ValueError, match=error) as caught:
        Recipe.from_dict(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["networks.baseline", "images.image_size", "optimization.epochs"])
def test_missing_field_without_a_default_raises(path):
    with pytest.raises(ValueError, match=f"^{path} is missing$"):
        Recipe.from_dict(without(recipe("cifar10").to_dict(), path))


def test_changes_are_applied_to_a_copy():
    plain = recipe("cifar10")
    made = plain.changed(
        [
            *("optimization.epochs=3", "config.order=index", "networks.config.c=None", "network_args.layers=[1,2]"),
            *("networks.network_args.block_args.attn_layer=se", "teacher=a=b", "compile=True", "task.mixup=0.2"),
        ]
    )
    assert (made.optimization.epochs, made.networks.config) == (3, MoDConfig(order="index"))
    assert made.task == Classification(augmentation="crop_flip", validation_fraction=0.1, teacher="a=b", mixup=0.2)
    assert made.networks.network_args == {"layers": [1, 2], "block_args": {"attn_layer": "se"}}
    assert made.system.compile is True
    assert made.changed(["teacher=None", "compile=false"]).system == System()
    assert made.changed(["network_args={}"]).networks.network_args == {}
    assert plain == recipe("cifar10")
    assert plain.changed([]) == plain


def test_another_task_gets_its_defaults():
    made = recipe("cifar10", ["task=segmentation", 'classes=["road", "sky"]'])
    assert made.task == Segmentation(classes=("road", "sky"))
    with pytest.raises(ValueError, match="unknown task 'segment'; did you mean segmentation"):
        recipe("cifar10", ["task=segment"])


@pytest.mark.parametrize("name", RECIPES)
def test_every_full_path_and_every_unique_end_can_be_set(name):
    made = recipe(name)
    full = {
        f"{part}.{key}": value
        for part, fields in made.to_dict().items()
        for key, value in fields.items()
        if (part, key) != ("task", "name")
    }
    assert made.changed([f"{path}={json.dumps(value)}" for path, value in full.items()]) == made
    ends = [path.rpartition(".")[2] for path in full]
    of_config = made.networks.config.to_dict()
    short = {end: value for end, value in zip(ends, full.values(), strict=True) if end not in of_config}
    assert made.changed([f"{end}={json.dumps(value)}" for end, value in short.items()]) == made


def test_ambiguous_end_raises():
    with pytest.raises(ValueError, match=r"^'scale' is ambiguous; write networks\.config\.scale or task\.scale$"):
        recipe("camvid", ["scale=[1,2]"])
    assert recipe("camvid", ["task.scale=[1,2]", "config.scale=input"]).task.scale == (1, 2)
    assert recipe("cifar10", ["scale=input"]).networks.config.scale == "input"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("epoch=3", r"unknown recipe field 'epoch'; did you mean optimization\.epochs, optimization\.warmup_epochs\?"),
        ("optimization.epoch=3", r"unknown recipe field 'optimization\.epoch'; did you mean optimization\.epochs"),
        ("system.epochs=3", r"unknown recipe field 'system\.epochs'; did you mean optimization\.epochs"),
        ("optimizer.name=sgd", r"unknown recipe field 'optimizer\.name'; did you mean optimization\.optimizer"),
        ("config.odrer=index", r"unknown recipe field 'config\.odrer'; did you mean networks\.config\.order"),
        ("qqqq=1", "unknown recipe field 'qqqq'; the parts are networks, images, optimization, system, task"),
        ("config.order=random", "order must be one of 'score', 'index', not 'random'"),
        ("network_args.layers.first=1", None),
        ("epochs", "a change must be field=value, not 'epochs'"),
        ("epochs=x", r"optimization\.epochs must be int, not 'x'"),
        ("train_images=0", "train_images must be ≥ 1 or None, not 0"),
        ("image_size=0", "image_size must be from 1 to 65535, not 0"),
        ("in_channels=1", "mean and std must have 1 numbers"),
        ("std=[1]", "mean and std must have 3 numbers"),
        ("mean=[0]", "mean and std must have 3 numbers"),
        ("milestones=[]", "needs milestones"),
        ("auto_augment=rand-m7", "require the augmentation 'resized_crop', not 'crop_flip'"),
        ("random_erasing=0.5", "require the augmentation 'resized_crop', not 'crop_flip'"),
        ("augmentation=flip", r"task\.augmentation must be one of .*, not 'flip'"),
        ("image_size=[8,9]", "classification needs square images; image_size is"),
        ("schedule=linear", r"optimization\.schedule must be one of .*, not 'linear'"),
        ("networks=1", "networks must be an object, not 1"),
    ],
)
def test_invalid_changes_raise(change, error):
    if error is None:
        assert recipe("cifar10", [change]).networks.network_args == {"layers": {"first": 1}}
        with pytest.raises(ValueError, match=r"cannot be set: networks\.network_args\.layers is \[1\]"):
            recipe("cifar10", ["network_args.layers=[1]", change])
        return
    with pytest.raises(ValueError, match=error):
        recipe("cifar10", [change])

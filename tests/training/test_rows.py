from dataclasses import replace

import pytest
import torch

import cnnmod
from cnnmod.method.choices import Choices
from cnnmod.method.skip import skipped_blocks
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import build_row, build_teacher, factory_of, without_weights
from cnnmod.training.step import make_optimizer
from small import color_network


def blocks(model):
    return cnnmod.mod_blocks(model)


@pytest.mark.parametrize("network", ["resnet18_cifar_mod", "resnet18_cifar"], ids=["named MoD", "converted"])
def test_three_networks_are_built(network):
    made = recipe("cifar10_fast", [f"network={network}", "config.order=index"])
    baseline, mod, control = (build_row(made, row, 10) for row in ("baseline", "mod", "control"))
    assert not blocks(baseline)
    assert {block.config.order for block in blocks(mod).values()} == {"index"}
    assert len(blocks(mod)) == 4
    assert not blocks(control)
    images = torch.rand(2, 3, 32, 32)
    assert [model(images).shape for model in (baseline, mod, control)] == [(2, 10)] * 3


@pytest.mark.parametrize("row", ["baseline", "mod"])
@pytest.mark.parametrize("change", ["replace_stride_with_dilation=[false,false,true]", "width_of_groups=1"])
def test_invalid_factory_arguments_raise(row, change):
    named = ["baseline=torchvision/resnet18", "network=torchvision/resnet18", "network_args={}"]
    with pytest.raises(ValueError, match=r"torchvision/resnet18 cannot be built with \{"):
        build_row(recipe("imagenet", [*named, f"network_args.{change}"]), row, 10)


def test_factory_has_name_and_arguments():
    gray = recipe("digits")
    assert factory_of(gray, "mod", 7) == (
        "cnnmod/resnet18_cifar_mod",
        gray.networks.network_args | {"num_classes": 7, "in_chans": 1},
    )
    assert factory_of(recipe("cifar10"), "baseline", 10)[0] == "cnnmod/resnet18_cifar"


def test_a_plan_replaces_the_config(tmp_path):
    made = recipe("digits", ["network=resnet18_cifar"])
    choices = Choices(
        {"layer1.1": None, "layer2.1": cnnmod.MoDConfig(c=2), "layer2.2": "skip", "layer2.3": None}
        | dict.fromkeys(["layer3.1", "layer3.2", "layer3.3"]),
        {"layer1.1": 16}
        | dict.fromkeys(["layer2.1", "layer2.2", "layer2.3"], 32)
        | dict.fromkeys(["layer3.1", "layer3.2", "layer3.3"], 64),
    )
    made = replace(made, networks=replace(made.networks, plan=choices))
    assert type(made).from_dict(made.to_dict()) == made
    model = build_row(made, "mod", 10)
    assert list(blocks(model)) == ["layer2.1"]
    assert skipped_blocks(model) == ["layer2.2"]
    assert skipped_blocks(build_row(made, "control", 10)) == ["layer2.2"]
    assert not skipped_blocks(build_row(made, "baseline", 10))


def test_mod_blocks_start_from_a_file(tmp_path):
    made = recipe("digits", ["network=resnet18_cifar"])
    dense = cnnmod.plan(build_row(made, "baseline", 10))
    channels = {block.name: block.channels for block in dense.blocks if block.position}
    chosen = {"layer1.1": cnnmod.MoDConfig(c=2), "layer2.1": "skip"}
    choices = Choices({name: chosen.get(name) for name in channels}, channels)
    made = replace(made, networks=replace(made.networks, plan=choices))
    tuned, path = build_row(made, "mod", 10), tmp_path / "tuned.safetensors"
    cnnmod.save(tuned, path)
    started = replace(made, networks=replace(made.networks, mod_weights=str(path)))
    torch.manual_seed(1)
    new = build_row(made, "mod", 10)
    torch.manual_seed(1)
    model = build_row(started, "mod", 10)
    expected = tuned.state_dict()
    for name, value in model.state_dict().items():
        inside = name.startswith("layer1.1.")
        assert torch.equal(value, (expected if inside else new.state_dict())[name]), name
    assert not any(
        torch.equal(value, new.state_dict()[name])
        for name, value in expected.items()
        if name.startswith("layer1.1.") and value.ndim > 1
    )
    assert not blocks(build_row(started, "control", 10))
    optimizer, _ = make_optimizer(model, started.changed(["optimizer=adamw", "mod_lr_scale=30"]), steps=1)
    assert max(group["lr_scale"] for group in optimizer.param_groups) == 1
    other = replace(choices, choices=dict(choices.choices) | {"layer1.1": cnnmod.MoDConfig(c=4)})
    wrong = replace(started, networks=replace(started.networks, plan=other))
    with pytest.raises(
        ValueError, match=r"tuned.safetensors has MoD blocks with other settings than the model: layer1.1"
    ):
        build_row(wrong, "mod", 10)
    with pytest.raises(ValueError, match="mod_weights need a plan"):
        replace(made.networks, plan=None, mod_weights=str(path))


class TestWeights:
    """Rows that start from the weights of the user's network."""

    SMALL = ("image_size=8", "config.c=4")

    def recipe(self, path, *changes, network="small:color_network"):
        return recipe("finetune", [*self.SMALL, *changes], network=network, weights=path)

    @pytest.fixture
    def weights(self, tmp_path):
        torch.manual_seed(1)
        torch.save(color_network(3).state_dict(), tmp_path / "own.pth")
        return tmp_path / "own.pth"

    def test_all_rows_start_from_them(self, weights):
        trained = torch.load(weights, weights_only=True)
        made = self.recipe(weights)
        for row in ("baseline", "mod", "control"):
            state = build_row(made, row, 3).state_dict()
            assert all(torch.equal(state[name], trained[name]) for name in state if not name.startswith("blocks.1"))
            without = build_row(made, row, 3, with_weights=False).state_dict()
            assert not torch.equal(without["stem.weight"], trained["stem.weight"])
        images = torch.rand(2, 3, 8, 8)
        mod, control = (build_row(made, row, 3).eval() for row in ("mod", "control"))
        assert torch.equal(mod(images), control(images))  # the identity start

    def test_head_with_other_classes_is_new(self, weights):
        assert build_row(self.recipe(weights), "mod", 5)(torch.rand(2, 3, 8, 8)).shape == (2, 5)

    def test_dense_network_is_the_teacher(self, weights):
        teacher = build_teacher(self.recipe(weights), 3)
        assert teacher is not None
        assert torch.equal(teacher.state_dict()["head.weight"], torch.load(weights, weights_only=True)["head.weight"])
        with pytest.raises(ValueError, match=r"own\.pth has 3 classes, not 5, so the dense network cannot"):
            build_teacher(self.recipe(weights), 5)
        assert build_teacher(self.recipe(weights, "teacher=None"), 5) is None

    def test_teacher_without_trained_weights_raises(self):
        with pytest.raises(ValueError, match=r"--network package\.module:factory --weights"):
            build_teacher(recipe("finetune", self.SMALL, network="small:color_network"), 3)

    def test_own_factory_gets_only_arguments_that_it_takes(self, weights):
        made = recipe("finetune", [*self.SMALL, "in_channels=1", "mean=[0]", "std=[1]"], network="small:color_network")
        assert factory_of(made, "mod", 7) == ("small:color_network", {"num_classes": 7, "in_chans": 1})
        assert factory_of(self.recipe(weights, network="small:two_classes"), "mod", 7) == ("small:two_classes", {})

    def test_mod_network_of_cnnmod_cannot_start_from_them(self, weights):
        with pytest.raises(ValueError, match="but cnnmod/resnet18_cifar_mod is a MoD network; name a dense network"):
            build_row(self.recipe(weights, network="resnet18_cifar_mod"), "mod", 3)

    def test_different_networks_raise(self, weights):
        with pytest.raises(ValueError, match="must be the same, not 'resnet50' and 'resnet75_mod'"):
            recipe("imagenet", weights=weights)


def test_checkpoint_does_not_name_arguments_that_select_weights():
    arguments = {"pretrained": True, "num_classes": 7, "backbone_args": {"checkpoint_path": "a.pth", "layers": [1]}}
    assert without_weights("cnnmod/fcn", arguments) == {"num_classes": 7, "backbone_args": {"layers": [1]}}
    assert without_weights("mine:make", arguments) == arguments

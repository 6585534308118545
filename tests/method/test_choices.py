import json

import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import nn

from cnnmod import MoDConfig, control_, convert_, load_, mod_blocks, plan, save
from cnnmod.method.choices import Choices, read_plan, write_plan
from cnnmod.method.skip import Skip, skipped_blocks
from cnnmod.networks import build, load

EXAMPLE = torch.rand(1, 3, 32, 32)
CONFIG = MoDConfig(c=4, identity_start=True)
CHOICES = {"layer2.1": CONFIG, "layer2.2": None, "layer3.1": "skip", "layer3.2": MoDConfig(c=8)}


def network():
    return build("resnet34_cifar", channels=(8, 16, 16, 32), num_classes=4)


def tiny():
    return nn.Sequential(*(BasicBlock(8, 8) for _ in range(3)), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_each_block_becomes_what_its_choice_says():
    model = convert_(network(), CHOICES, example=EXAMPLE)
    blocks = mod_blocks(model)
    assert {name: block.k for name, block in blocks.items()} == {"layer2.1": 4, "layer3.2": 2}
    assert blocks["layer2.1"].config == CONFIG
    assert skipped_blocks(model) == ["layer3.1"]
    x = torch.rand(2, 16, 8, 8)
    assert model.get_submodule("layer3.1")(x) is x


def test_a_function_chooses_for_each_block_that_can_be_replaced():
    asked = []

    def choose(name):
        asked.append(name)
        return {"layer1.1": "skip", "layer4.1": MoDConfig(c=2)}.get(name)

    model = convert_(network(), choose, example=EXAMPLE)
    assert list(mod_blocks(model)) == ["layer4.1"]
    assert skipped_blocks(model) == ["layer1.1"]
    assert "layer1.0" not in asked
    assert len(asked) == len(set(asked)) == 3 + 4 + 6 + 3 - 4


def test_plan_shows_choices():
    made = plan(network(), CHOICES, example=EXAMPLE)
    assert made.mod_blocks == ["layer2.1", "layer3.2"]
    assert made.skipped_blocks == ["layer3.1"]
    assert made.c is None
    lines = {line.split()[0]: line for line in str(made).splitlines()}
    assert lines["ResNet:"] == "ResNet: 2 MoD blocks, 1 skipped"
    assert lines["layer2.1"].endswith("MoD block, c = 4")
    assert lines["layer3.1"].endswith("skipped")
    assert lines["layer3.3"].endswith("kept")


@pytest.mark.parametrize("factory", ["cnnmod/resnet34_cifar", "cnnmod/resnet34_cifar_mod"])
@pytest.mark.parametrize("change", [lambda model: model, control_])
def test_choices_round_trip(tmp_path, factory, change):
    path = tmp_path / "model.safetensors"
    arguments = {"channels": [8, 16, 16, 32], "num_classes": 4}
    model = change(convert_(network(), CHOICES)).eval()
    save(model, path, factory=factory, factory_args=arguments)
    x = torch.rand(2, 3, 32, 32)
    for loaded in (load(path), load_(network(), path), load_(change(convert_(network(), CHOICES)), path)):
        assert torch.equal(loaded.eval()(x), model(x))
        assert skipped_blocks(loaded) == ["layer3.1"]
        assert isinstance(loaded.get_submodule("layer2.1"), type(model.get_submodule("layer2.1")))


def test_only_skipped_blocks_round_trip(tmp_path):
    path = tmp_path / "model.safetensors"
    model = convert_(tiny(), {"1": "skip"}, example=torch.rand(1, 8, 8, 8))
    save(model, path)
    loaded = load_(tiny(), path, example=torch.rand(1, 8, 8, 8))
    assert isinstance(loaded[1], Skip)
    with pytest.raises(ValueError, match=r"skips the blocks \['1'\], but the model skips \['2'\]"):
        load_(convert_(tiny(), {"2": "skip"}, example=torch.rand(1, 8, 8, 8)), path)


def test_files_without_skipped_blocks_keep_format_1(tmp_path):
    from safetensors import safe_open

    formats = []
    for number, choices in enumerate([{"1": MoDConfig(c=2)}, {"1": "skip"}]):
        save(convert_(tiny(), choices, example=torch.rand(1, 8, 8, 8)), tmp_path / f"{number}")
        with safe_open(tmp_path / f"{number}", framework="pt") as file:
            formats.append(json.loads(file.metadata()["cnnmod"])["format"])
    assert formats == [1, 2]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"layer3.9": "skip"}, r"^layer3.9 is not a block of ResNet; the nearest is layer3.\d$"),
        ({"layer3.0": "skip"}, "^layer3.0 is the first block of its module, which always stays; choose None for it$"),
        ({"layer3.1": "remove"}, "^the choice for layer3.1 must be a MoDConfig, 'skip' or None .keep the block., not"),
        (lambda name: 3, "^the choice for layer1.1 must be a MoDConfig, 'skip' or None .keep the block., not 3$"),
        ({}, "^the choices keep all 12 blocks of ResNet, so there is nothing to convert$"),
        ({"layer3.1": MoDConfig(c=64)}, "^c must be at most 32, the channels of the widest block, not 64$"),
        (3, "^config must be a MoDConfig, a mapping or a function"),
    ],
)
def test_wrong_choices_raise_and_change_nothing(choices, message):
    model = network()
    modules = list(model.modules())
    with pytest.raises(ValueError, match=message):
        convert_(model, choices, example=EXAMPLE)
    assert list(model.modules()) == modules


class Fixed(BasicBlock):
    """A block whose narrow copy does not work, because its number of channels is fixed."""

    def forward(self, x):
        return super().forward(x) + x.new_zeros(1, 8, 1, 1)


def test_a_block_that_cannot_be_converted_raises_but_can_be_skipped():
    def fixed():
        return nn.Sequential(*(Fixed(8, 8) for _ in range(3)))

    example = torch.rand(1, 8, 8, 8)
    with pytest.raises(ValueError, match=r"these blocks cannot be MoD blocks: 1 \(Fixed\): its Conv-Block with k = 2"):
        convert_(fixed(), {"1": MoDConfig(c=4)}, example=example)
    assert skipped_blocks(convert_(fixed(), {"1": "skip"}, example=example)) == ["1"]


def test_converted_networks_are_refused():
    model = convert_(tiny(), {"1": "skip"}, example=torch.rand(1, 8, 8, 8))
    with pytest.raises(ValueError, match="already converted: 1 is skipped"):
        convert_(model, {"2": "skip"}, example=torch.rand(1, 8, 8, 8))
    with pytest.raises(ValueError, match="filter_fn cannot be combined"):
        convert_(tiny(), {"2": "skip"}, filter_fn=lambda block, name: True)


def choices_of(model):
    blocks = [block for block in plan(model, example=EXAMPLE).blocks if block.position]
    return Choices(
        {block.name: CHOICES.get(block.name) for block in blocks}, {block.name: block.channels for block in blocks}
    )


def test_a_plan_file_is_a_config(tmp_path):
    path = tmp_path / "plan.json"
    choices = choices_of(network())
    write_plan(choices, path, budget=0.7)
    assert read_plan(path) == choices
    model = convert_(network(), path, example=EXAMPLE)
    assert list(mod_blocks(model)) == ["layer2.1", "layer3.2"]
    assert skipped_blocks(model) == ["layer3.1"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: build("resnet34_cifar", channels=(8, 16, 24, 32)),
            "layer3.1 is 16 channels wide in the plan, 24 in the network$",
        ),
        (
            lambda: build("resnet18_cifar", channels=(8, 16, 16, 32)),
            "layer1.2 is 8 channels wide in the plan, not a block of the network$",
        ),
    ],
)
def test_a_plan_of_another_network_raises(tmp_path, other, message):
    write_plan(choices_of(network()), tmp_path / "plan.json")
    with pytest.raises(ValueError, match=f"^the plan is of another network than ResNet: {message}"):
        convert_(other(), tmp_path / "plan.json", example=EXAMPLE)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (None, "plan.json: blocks must be a JSON object"),
        ({"a": 3}, "plan.json: block a must be a JSON object, not 3"),
        ({"a": {"channels": 3, "choice": "drop"}}, "plan.json: block a: choice must be 'keep', 'skip' or the fields"),
        ({"a": {"channels": 3, "choice": {"k": 3}}}, "plan.json: block a: choice: unknown MoDConfig field k"),
        ({"a": {"channels": 3, "choice": []}}, "plan.json: block a: choice must be 'keep', 'skip' or the fields"),
    ],
)
def test_invalid_plans_raise(tmp_path, blocks, message):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"schema": "cnnmod plan 1", "blocks": blocks}))
    with pytest.raises(ValueError, match=message):
        read_plan(path)

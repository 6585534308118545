import pytest
import timm
import torch

from cnnmod import MoDConfig, control_, convert_, load_, mod_blocks, plan, save
from cnnmod.method.choices import Skip
from cnnmod.networks import build, build_mod, load
from cnnmod.report.network_table import network_cells

EXAMPLE = torch.rand(1, 3, 32, 32)
CHOICES = {"layer1.1": MoDConfig(c=16, order="index"), "layer2.1": "skip", "layer3.1": MoDConfig(candidates=2)}


def network():
    torch.manual_seed(0)
    return build("resnet18_cifar", channels=[16, 32, 64, 64], layers=[2, 2, 2, 1])


def test_each_block_gets_its_choice():
    made = plan(network(), CHOICES, example=EXAMPLE)
    outcomes = {block.name: block.outcome for block in made.blocks}
    assert outcomes["layer1.1"] == "MoD block, c=16, order='index'"
    assert outcomes["layer2.1"] == "skip"
    assert outcomes["layer1.0"] == "first of its module"
    assert (made.mod_blocks, made.skipped_blocks) == (["layer1.1", "layer3.1"], ["layer2.1"])
    model = convert_(network(), CHOICES, example=EXAMPLE)
    blocks = mod_blocks(model)
    assert list(blocks) == made.mod_blocks
    assert (blocks["layer1.1"].k, blocks["layer1.1"].config.order) == (1, "index")
    assert blocks["layer3.1"].config.candidates == 2
    assert isinstance(model.layer2[1], Skip)


def test_a_function_can_choose():
    model = convert_(network(), lambda name: "skip" if name == "layer1.1" else MoDConfig(c=4), example=EXAMPLE)
    assert list(mod_blocks(model)) == ["layer2.1", "layer3.1"]
    assert isinstance(model.layer1[1], Skip)


def test_the_same_config_for_each_block_equals_one_config():
    names = plan(network(), MoDConfig(c=4), example=EXAMPLE).mod_blocks
    torch.manual_seed(1)
    one = convert_(network(), MoDConfig(c=4), example=EXAMPLE)
    torch.manual_seed(1)
    each = convert_(network(), dict.fromkeys(names, MoDConfig(c=4)), example=EXAMPLE)
    assert {name: block.k for name, block in mod_blocks(one).items()} == {
        name: block.k for name, block in mod_blocks(each).items()
    }
    assert [value.shape for value in one.state_dict().values()] == [value.shape for value in each.state_dict().values()]


def test_skipped_blocks_equal_the_deleted_blocks():
    model, smaller = convert_(network(), {"layer2.1": "skip"}, example=EXAMPLE), network()
    smaller.layer2 = smaller.layer2[:1]
    with torch.inference_mode():
        assert torch.equal(model.eval()(EXAMPLE), smaller.eval()(EXAMPLE))


@pytest.mark.parametrize("change", [lambda model: model, control_], ids=["mod", "control"])
def test_saved_choices_are_loaded(change, tmp_path):
    model = change(convert_(network(), CHOICES, example=EXAMPLE)).eval()
    arguments = {"channels": [16, 32, 64, 64], "layers": [2, 2, 2, 1]}
    save(model, tmp_path / "file.safetensors", factory="cnnmod/resnet18_cifar", factory_args=arguments)
    for loaded in (
        load_(network(), tmp_path / "file.safetensors", example=EXAMPLE),
        load(tmp_path / "file.safetensors"),
    ):
        with torch.inference_mode():
            assert torch.equal(loaded.eval()(EXAMPLE), model(EXAMPLE))
        assert [name for name, layer in loaded.named_modules() if isinstance(layer, Skip)] == [
            name for name, layer in model.named_modules() if isinstance(layer, Skip)
        ]


def test_a_factory_that_takes_a_config_is_loaded_with_its_choices(tmp_path):
    model = build_mod("resnet18_mod", {"layer1.1": "skip", "layer2.1": MoDConfig(c=8)}).eval()
    save(model, tmp_path / "file.safetensors", factory="cnnmod/resnet18_mod")
    loaded = load(tmp_path / "file.safetensors")
    assert list(mod_blocks(loaded)) == ["layer2.1"]
    assert isinstance(loaded.layer1[1], Skip)


def test_a_file_with_other_skipped_blocks_is_refused(tmp_path):
    save(convert_(network(), CHOICES, example=EXAMPLE), tmp_path / "file.safetensors")
    other = convert_(network(), CHOICES | {"layer2.1": MoDConfig(c=4)}, example=EXAMPLE)
    with pytest.raises(ValueError, match=r"has the skipped blocks \['layer2\.1'\], but the model has \[\]"):
        load_(other, tmp_path / "file.safetensors")


def test_info_shows_skipped_blocks():
    cells = network_cells("network", convert_(network(), CHOICES, example=EXAMPLE), EXAMPLE)
    kinds = {row[0]: row[2] for row in cells.rows}
    assert (kinds["layer1.1"], kinds["layer2.1"], kinds["layer2.0"]) == ("MoD", "skip", "standard")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"layer1.2": "skip"}, r"'layer1\.2' is not a block that can be a MoD block; did you mean layer1\.1"),
        ({"layer1.0": "skip"}, r"'layer1\.0' is not a block that can be a MoD block"),
        ({"layer1.1": 4}, r"the choice for layer1\.1 must be a MoDConfig, 'skip' or None, not 4"),
        ({}, "no choice for any of the"),
        (lambda name: None, "no choice for any of the"),
        ({"layer1.1": MoDConfig(c=65)}, r"c of layer1\.1 must be at most 64"),
        (3, "config must be a MoDConfig, a dictionary from block names or a function of a block name, not int"),
    ],
    ids=str,
)
def test_wrong_choices_raise_and_change_nothing(choices, message):
    model = network()
    before = list(model.modules())
    with pytest.raises(ValueError, match=message):
        convert_(model, choices, example=EXAMPLE)
    assert list(model.modules()) == before


def test_choices_and_a_filter_are_not_combined():
    with pytest.raises(ValueError, match="filter_fn is not accepted with a choice for each block"):
        convert_(network(), CHOICES, filter_fn=lambda block, name: True, example=EXAMPLE)


def test_a_block_that_cannot_be_shrunk_can_be_skipped_but_not_converted():
    """A convolution with weight normalization cannot be shrunk."""
    model = timm.create_model("resnet18")
    torch.nn.utils.parametrizations.weight_norm(model.layer2[1].conv1)
    with pytest.raises(ValueError, match=r"these blocks cannot be MoD blocks: layer2\.1 .*parametrized"):
        convert_(model, {"layer2.1": MoDConfig(c=8), "layer1.1": MoDConfig(c=8)}, example=EXAMPLE)
    convert_(model, {"layer2.1": "skip", "layer1.1": MoDConfig(c=8)}, example=EXAMPLE)
    assert isinstance(model.layer2[1], Skip)

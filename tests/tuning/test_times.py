import pytest
import timm
import torch
from timm.models.resnet import BasicBlock
from torch import nn

from cnnmod import MoDConfig, convert_
from cnnmod.method.choices import Choices
from cnnmod.tuning.configs import tuning_configs
from cnnmod.tuning.space import find_space
from cnnmod.tuning.times import fitted_scale, measure_times

EXAMPLE = torch.rand(1, 3, 16, 16)
CONFIGS = [MoDConfig(c=4), MoDConfig(c=2)]


def network():
    first, second = (nn.Sequential(*(BasicBlock(8, 8) for _ in range(count))) for count in (4, 2))
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), first, nn.MaxPool2d(2), second, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()


def test_space_has_groups_of_blocks_with_equal_shapes():
    space = find_space(network(), [*CONFIGS, MoDConfig(c=3)], EXAMPLE)
    assert [(block.name, block.group, block.channels) for block in space.blocks] == [
        *(("1.1", 0, 8), ("1.2", 0, 8), ("1.3", 0, 8)),
        ("3.1", 1, 8),
    ]
    assert list(space.blocks[0].choices) == ["keep", "c=4", "c=2", "skip"]  # c=3 also selects two channels
    choices = space.choices({"1.2": "c=2", "3.1": "skip"})
    assert choices == Choices(
        {"1.1": None, "1.2": MoDConfig(c=2), "1.3": None, "3.1": "skip"}, dict.fromkeys(["1.1", "1.2", "1.3", "3.1"], 8)
    )
    assert space.random(3, seed=1) == space.random(3, seed=1)


def test_the_usual_c_of_a_narrow_network_is_accepted():
    model = network()
    space = find_space(model, [MoDConfig()], EXAMPLE)
    assert list(space.blocks[0].choices) == ["keep", "c=8", "skip"]
    convert_(model, space.choices({"1.1": "c=8"}), example=EXAMPLE)


@pytest.mark.parametrize("runtime", ["eager", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_times_are_measured_and_resumed(runtime):
    model, saved, progress = network(), [], []
    space = find_space(model, CONFIGS, EXAMPLE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = measure_times(
        model, space, runtime, EXAMPLE, rounds=3, save=saved.append, progress=lambda *step: progress.append(step)
    )
    assert table.dense_ms > 0
    assert [list(saves) for saves in table.saved] == [["c=4", "c=2", "skip"]] * 2
    assert table.predict(space, {"1.1": "skip", "3.1": "skip"}) == pytest.approx(
        1 - table.scale * (table.saved[0]["skip"] + table.saved[1]["skip"])
    )
    assert len(table.checks) == 4
    assert table.largest_error_pct() == max(abs(check.error_pct) for check in table.checks)
    assert [len(made.saved) for made in saved] == [1, 2, 2]
    assert progress[-1] == (f"times in {runtime}", len(progress), len(progress))
    resumed, steps = [], []
    made = measure_times(
        model,
        space,
        runtime,
        EXAMPLE,
        rounds=3,
        finished=saved[0],
        save=resumed.append,
        progress=lambda *step: steps.append(step),
    )
    assert made.saved[0] == saved[0].saved[0]
    assert len(resumed) == 2
    assert len(steps) < len(progress)
    assert measure_times(model, space, runtime, EXAMPLE, finished=table) == table
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_scale_and_the_checks_come_from_different_combinations():
    model = network()
    space = find_space(model, CONFIGS, EXAMPLE)
    table = measure_times(model, space, "eager", EXAMPLE, rounds=3)
    calibrations, checks = space.random(8, seed=0)[:4], space.random(8, seed=0)[4:]
    assert [check.labels for check in table.checks] == checks
    assert all(check.predicted == table.predict(space, check.labels) for check in table.checks)
    assert any(set(labels.values()) != {"keep"} for labels in calibrations)


@pytest.mark.parametrize(
    ("pairs", "scale"),
    [
        ([(0.1, 0.12), (0.3, 0.36)], 1.2),
        ([(0.1, 0.2), (0.2, 0.2)], 1.2),  # (0.1 · 0.2 + 0.2 · 0.2) / (0.1² + 0.2²)
        ([(0.1, -0.1)], 0.5),
        ([(0.1, 0.9)], 2.0),
        ([(0.0, 0.1)], 1.0),
    ],
)
def test_the_scale_is_that_of_least_squares(pairs, scale):
    assert fitted_scale(pairs) == pytest.approx(scale)


def test_networks_without_blocks_raise():
    with pytest.raises(ValueError, match="has nothing to convert"):
        find_space(nn.Sequential(nn.Conv2d(3, 8, 3)), CONFIGS, EXAMPLE)
    with pytest.raises(ValueError, match="configs must have at least one"):
        find_space(network(), [], EXAMPLE)


@pytest.mark.parametrize(("name", "forms"), [("resnet18", {"first", "all"}), ("seresnet18", {"first"})])
def test_narrow_blocks_are_offered_where_they_can_be_built(name, forms):
    """The blocks of an SE-ResNet are not a chain of layers."""
    model = timm.create_model(name)
    space = find_space(model, tuning_configs(), torch.rand(1, 3, 64, 64))
    choices = [choice for block in space.blocks for choice in block.choices.values()]
    assert {choice.fuse_to for choice in choices if isinstance(choice, MoDConfig)} == forms


def test_equal_blocks_with_other_choices_are_another_group():
    """A block with a hook is only skipped, and the blocks before and after it have the same shapes."""
    model = network()
    model[1][2].register_forward_hook(lambda module, args, output: None)
    space = find_space(model, [MoDConfig(c=4)], EXAMPLE)
    assert [list(block.choices) for block in space.blocks if block.name == "1.2"] == [["keep", "skip"]]
    table = measure_times(model, space, "eager", EXAMPLE, rounds=1)
    assert [set(saved) for saved in table.saved] == [{*group[0].choices} - {"keep"} for group in space.groups()]

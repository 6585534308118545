import pytest
import torch

from cnnmod import MoDConfig, compare, convert_
from cnnmod.measure.results import read_result, write_result
from small import shallow_resnet

X = torch.rand(2, 1, 8, 8)


@pytest.fixture(scope="module")
def networks():
    return {
        "dense": shallow_resnet(),
        "mod": convert_(shallow_resnet(), MoDConfig(c=8), example=X),
        "mod all": convert_(shallow_resnet(), MoDConfig(c=8, placement="all"), example=X),
    }


def test_every_row_is_measured_under_every_condition(networks, tmp_path):
    seen = []
    comparison = compare(
        networks,
        X,
        batch_sizes=(1, 5),
        rounds=3,
        threads=1,
        accuracy_pct={"mod": 90.0, "mod control": 80.0},
        accuracy_source="a guess",
        progress=lambda *what: seen.append(what),
    )
    names = ["dense", "mod", "mod control", "mod all", "mod all control"]
    assert [row.name for row in comparison.rows] == names
    assert [row.role for row in comparison.rows] == ["baseline", "mod", "control", "mod", "control"]
    assert [row.accuracy_pct for row in comparison.rows] == [None, 90.0, 80.0, None, None]
    assert comparison.conditions == [("eager", 1), ("eager", 5)]
    for row in comparison.rows:
        assert [len(found.times_ms) for found in row.measurements] == [3, 3]
        assert all(0 < one < 1000 for found in row.measurements for one in found.times_ms)
        assert row.measurements[0].peak_memory_mib < row.measurements[1].peak_memory_mib
    assert comparison.rows[0].parameters > comparison.rows[1].parameters > comparison.rows[2].parameters
    assert comparison.rows[0].gmacs > comparison.rows[1].gmacs > comparison.rows[2].gmacs
    assert comparison.provenance.threads == 1
    assert seen[-1] == ("eager, batch 5", 5, 5)
    write_result(comparison, tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == comparison


@pytest.mark.parametrize("channels_last", [False, True])
def test_training_step_does_not_change_the_networks(networks, channels_last):
    before = {name: tensor.clone() for name, tensor in networks["mod"].state_dict().items()}
    two = {name: networks[name] for name in ("dense", "mod")}
    comparison = compare(two, X, batch_sizes=(4,), training=True, rounds=2, channels_last=channels_last)
    assert comparison.step == "training"
    assert comparison.channels_last == channels_last
    assert all(torch.equal(before[name], tensor) for name, tensor in networks["mod"].state_dict().items())


@pytest.mark.parametrize("runtime", ["eager", pytest.param("compile", marks=pytest.mark.slow)])
def test_training_step_under_autocast(networks, runtime, tmp_path):
    two = {name: networks[name] for name in ("dense", "mod")}
    comparison = compare(
        two, X, runtimes=(runtime,), batch_sizes=(4,), training=True, autocast=torch.bfloat16, rounds=1
    )
    assert comparison.dtype == "float32, autocast to bfloat16"
    assert comparison.conditions == [(runtime, 4)]
    assert all((row.measurements[0].peak_memory_mib is None) == (runtime == "compile") for row in comparison.rows)
    assert not any(parameter.grad is not None for model in two.values() for parameter in model.parameters())
    write_result(comparison, tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == comparison


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtimes": ("tensorrt",)}, "unknown runtime 'tensorrt'; the runtimes are eager"),
        (
            {"runtimes": ("eager", "pt2"), "training": True},
            "a training step runs in 'eager' and 'compile', not in 'pt2'",
        ),
        ({"autocast": torch.bfloat16}, r"autocast is for a training step; for inference, .* \.to\(torch\.bfloat16\)"),
        ({"batch_sizes": ()}, "batch sizes and rounds must be ≥ 1"),
        ({"batch_sizes": (0,)}, "batch sizes and rounds must be ≥ 1"),
        ({"batch_sizes": (2, 2)}, r"batch sizes must be distinct, not \[2, 2\]"),
        ({"rounds": 0}, "batch sizes and rounds must be ≥ 1"),
        ({"threads": 0}, "threads must be ≥ 1, not 0"),
        ({"example": torch.rand(1, 8, 8)}, r"example must be images \(N, C, H, W\), not of shape \(1, 8, 8\)"),
        ({"example": torch.rand(1, 3, 8, 8)}, "does not run on an example"),
        ({"accuracy_pct": {"mood": 1.0}}, "accuracy_pct names 'mood', but the rows are 'dense', 'mod', 'mod control'"),
    ],
)
def test_invalid_arguments_raise(networks, changes, message):
    arguments = {"models": {name: networks[name] for name in ("dense", "mod")}, "example": X} | changes
    with pytest.raises(ValueError, match=message):
        compare(**arguments)


def test_name_of_a_control_raises(networks):
    models = {"dense": networks["dense"], "mod": networks["mod"], "mod control": networks["mod all"]}
    with pytest.raises(ValueError, match="the control of 'mod' has the name 'mod control'"):
        compare(models, X)


def test_missing_baseline_or_mod_network_raises(networks):
    with pytest.raises(ValueError, match="a baseline and at least one MoD network"):
        compare({"dense": networks["dense"]}, X)
    with pytest.raises(ValueError, match="a baseline and at least one MoD network"):
        compare({}, X)
    with pytest.raises(ValueError, match="'mod' has neither MoD blocks nor skipped blocks; only the first network"):
        compare({"dense": networks["dense"], "mod": shallow_resnet()}, X)


def test_a_network_with_skipped_blocks_only_is_its_own_control():
    dense = shallow_resnet()
    skipping = convert_(shallow_resnet(), {"layer1.1": "skip"}, example=X)
    comparison = compare({"dense": dense, "skipping": skipping}, X, rounds=2)
    assert [row.role for row in comparison.rows] == ["baseline", "mod", "control"]
    assert comparison.rows[1].parameters == comparison.rows[2].parameters < comparison.rows[0].parameters

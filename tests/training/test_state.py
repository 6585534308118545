import pytest
import torch
from timm.optim._optim_factory import create_optimizer_v2
from torch import nn

from cnnmod.training.state import State


def state(optimizer="momentum", average=False, layers=1):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(layers)), nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last
    )
    made = create_optimizer_v2(model, opt=optimizer, lr=0.1, momentum=0.9)
    return State(model, made, nn.Conv2d(4, 4, 3) if average else None, torch.amp.GradScaler("cpu", enabled=average))


def step(some):
    some.optimizer.zero_grad()
    some.model(torch.ones(2, 4, 9, 9)).square().sum().backward()
    some.optimizer.step()


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("optimizer", ["momentum", "sgd", "adamw", "lamb"])
def test_restored_state_continues_identically(optimizer, average, tmp_path):
    first = state(optimizer, average)
    for _ in range(3):
        step(first)
    first.save(tmp_path / "state", {"step": 3, "best": 0.5})
    second = state(optimizer, average)
    assert second.load(tmp_path / "state") == {"step": 3, "best": 0.5}
    for _ in range(3):
        step(first)
        step(second)
    for one, other in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    for parameter, values in second.optimizer.state.items():
        for value in values.values():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                assert value.stride() == parameter.stride()


def test_state_of_another_network_raises(tmp_path):
    state().save(tmp_path / "state", {})
    with pytest.raises(ValueError, match=r"(?s)is of another network or optimizer: .*Missing key"):
        state(layers=2).load(tmp_path / "state")


def test_invalid_file_raises(tmp_path):
    (tmp_path / "state").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a training state"):
        state().load(tmp_path / "state")


def test_full_disk_keeps_the_previous_state(tmp_path):
    """A limit on the file size simulates a full disk."""
    import resource

    first = state()
    first.save(tmp_path / "state", {"step": 1})
    before = (tmp_path / "state").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            first.save(tmp_path / "state", {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "state").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert state().load(tmp_path / "state") == {"step": 1}


def test_changed_bit_is_detected(tmp_path):
    """A changed bit in a weight is detected by the checksum."""
    state().save(tmp_path / "state", {"step": 1})
    content = bytearray((tmp_path / "state").read_bytes())
    content[-5] ^= 1
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(ValueError, match="state is damaged: the checksum does not match the content"):
        state().load(tmp_path / "state")


def spoil(some, what, value):
    tensors = {
        "model": some.model[0].weight,
        "statistics": some.model[1].running_var,
        "average": some.average.weight,
        "optimizer": next(iter(some.optimizer.state.values()))["momentum_buffer"],
    }
    tensors[what].data[0] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("model", r"model\.0\.weight"),
        ("statistics", r"model\.1\.running_var"),
        ("average", r"average\.weight"),
        ("optimizer", r"optimizer\.\d\.momentum_buffer"),
    ],
)
def test_non_finite_values_do_not_replace_the_last_state(what, named, value, tmp_path):
    some = state(average=True)
    step(some)
    some.save(tmp_path / "state", {"step": 1})
    before = (tmp_path / "state").read_bytes()
    spoil(some, what, value)
    with pytest.raises(FloatingPointError, match=rf"{named} has values that are not finite at step 2; try a lower"):
        some.save(tmp_path / "state", {"step": 2})
    assert (tmp_path / "state").read_bytes() == before
    assert state(average=True).load(tmp_path / "state") == {"step": 1}


def test_zero_loss_scale_raises(tmp_path):
    some = state(average=True)
    some.scaler.load_state_dict(some.scaler.state_dict() | {"scale": 0.0})
    with pytest.raises(FloatingPointError, match=r"the loss scale of fp16 is 0\.0 at step 2"):
        some.save(tmp_path / "state", {"step": 2})
    assert not list(tmp_path.iterdir())

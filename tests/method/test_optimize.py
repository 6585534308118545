import pytest
import timm
import torch
from timm.optim._optim_factory import create_optimizer_v2

import cnnmod


@pytest.fixture(scope="module")
def model():
    return cnnmod.convert_(timm.create_model("resnet18"))


def sizes(groups):
    return [sum(parameter.numel() for parameter in group["params"]) for group in groups]


def test_every_parameter_is_in_one_group(model):
    groups = cnnmod.param_groups(model, lr=0.1, weight_decay=0.05, decay_norms=False)
    parameters = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(parameters) == sorted(map(id, model.parameters()))
    selector = sum(p.numel() for name, p in model.named_parameters() if ".selector." in name)
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert sizes(groups)[1:] == [norms, selector]
    assert [group["lr"] for group in groups] == [0.1, 0.1, 0.1 * 0.005]
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0, 0.05]


def test_dense_network_has_one_group():
    (group,) = cnnmod.param_groups(timm.create_model("resnet18"), lr=0.1)
    assert group["lr"] == 0.1


@pytest.mark.parametrize("name", ["adamw", pytest.param("muon", marks=pytest.mark.slow), "sgd", "lamb"])
def test_optimizers_of_timm_use_the_groups(model, name):
    optimizer = create_optimizer_v2(cnnmod.param_groups(model, lr=0.1), opt=name, lr=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1 * 0.005]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    change = {key: (value - before[key]).abs().mean().item() for key, value in model.named_parameters()}
    assert 0 < change["layer1.1.selector.reduce.weight"] < 0.1 * change["layer1.0.bn1.weight"]
    model.load_state_dict(before)


def test_frozen_parameters_are_in_no_group(model):
    for parameter in model.layer1.parameters():
        parameter.requires_grad_(False)
    groups = cnnmod.param_groups(model, lr=0.1)
    frozen = {id(parameter) for parameter in model.layer1.parameters()}
    assert not frozen & {id(parameter) for group in groups for parameter in group["params"]}
    for parameter in model.layer1.parameters():
        parameter.requires_grad_()


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"lr": 0.1, "weight_decay": float("nan")}], ids=str)
def test_negative_and_nan_values_raise(model, options):
    with pytest.raises(ValueError, match="must be ≥ 0, not"):
        cnnmod.param_groups(model, **options)


def test_network_without_trainable_parameters_raises():
    with pytest.raises(ValueError, match="has no parameter that requires a gradient"):
        cnnmod.param_groups(torch.nn.ReLU(), lr=0.1)


def test_replaced_and_wrapped_selectors_have_the_smaller_rate(model):
    class Adapter(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.scale = base, torch.nn.Parameter(torch.ones(()))

        def forward(self, x_NCHW):
            return self.base(x_NCHW) * self.scale

    block = cnnmod.mod_blocks(model)["layer1.1"]
    block.selector = Adapter(block.selector)
    rates = {id(p): group["lr"] for group in cnnmod.param_groups(model, lr=0.1) for p in group["params"]}
    assert rates[id(block.selector.scale)] == 0.1 * 0.005
    block.selector = block.selector.base


def test_names_without_weight_decay_as_in_timm(model):
    model.no_weight_decay = lambda: {"conv1.weight"}
    groups = cnnmod.param_groups(model, lr=0.1, weight_decay=0.05)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(model.conv1.weight)] == 0
    assert decay[id(model.bn1.weight)] == 0.05
    del model.no_weight_decay


def test_new_blocks_have_a_higher_rate_and_gains_no_decay():
    model = cnnmod.convert_(timm.create_model("resnet18"), cnnmod.MoDConfig(identity_start=True))
    groups = cnnmod.param_groups(model, lr=0.1, weight_decay=0.05, mod_lr_scale=30)
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    block = cnnmod.mod_blocks(model)["layer1.1"]
    assert settings[id(model.conv1.weight)] == (0.1, 0.05)
    assert settings[id(next(block.conv_block.parameters()))] == (pytest.approx(3.0), 0.05)
    assert settings[id(block.gain_K)] == (pytest.approx(3.0), 0.0)
    assert settings[id(block.selector.reduce.weight)] == (pytest.approx(0.0005), 0.05)
    assert settings.keys() == {id(p) for p in model.parameters()}

import pytest
import torch
from small_resnet import small_resnet

import cnnmod


def gates(model):
    """Return what the gates of a network multiply by, for random images."""
    found = []
    for name, module in model.named_modules():
        if name.endswith(".se.gate"):
            module.register_forward_hook(lambda _module, _input, output: found.append(output))
    model(torch.randn(4, 3, 32, 32))
    return torch.cat([gate.flatten() for gate in found])


def test_gates_start_at_one_or_where_timm_starts_them():
    assert gates(small_resnet(layers=(1, 1, 1), se="one")).eq(1).all()
    assert gates(small_resnet(layers=(1, 1, 1), se="timm")).mean().sub(0.5).abs() < 0.05


def test_gate_that_starts_at_one_learns():
    """Its first layer has weights: a layer of zeros would get no gradient."""
    model = small_resnet(layers=(1, 1, 1), se="one")
    first, last = (model.get_submodule(f"module1.0.se.{name}") for name in ("fc1", "fc2"))
    assert first.weight.std() > 0.05
    torch.nn.init.ones_(model.get_submodule("module1.0.bn2").weight)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert last.weight.grad is not None
    assert last.weight.grad.abs().max() > 0


@pytest.mark.parametrize("se", ["none", "timm", "one"])
def test_residual_branches_start_at_zero(se):
    model = small_resnet(se=se).eval()
    block = model.get_submodule("module1.1")
    x = torch.rand(2, 16, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_control_is_the_dense_network_with_fewer_blocks():
    mod = cnnmod.convert_(small_resnet(layers=(4, 4, 4)))
    assert list(cnnmod.mod_blocks(mod)) == [f"module{module}.{position}" for module in (1, 2, 3) for position in (1, 3)]
    control = cnnmod.control_(mod)
    dense = small_resnet(layers=(2, 2, 2))
    assert sorted(map(shape, control.parameters())) == sorted(map(shape, dense.parameters()))


def shape(parameter):
    return tuple(parameter.shape)

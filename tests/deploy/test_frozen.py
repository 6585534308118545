import copy
import time

import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, convert_, lower
from cnnmod.deploy.frozen import Frozen
from cnnmod.networks import build
from small import tiny_network


def network():
    return lower(
        convert_(tiny_network(), MoDConfig(c=4), example=torch.rand(1, 1, 8, 8)), example=torch.rand(1, 1, 8, 8)
    )


def test_changes_in_place_are_accepted():
    model = network()
    frozen, other = Frozen(model), network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    model.load_state_dict(other.state_dict())
    with torch.inference_mode():
        model(torch.rand(1, 1, 8, 8))
    assert frozen.change() is None


def assign(model):
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)


def cast(model):
    model.double()


def new_data(model):
    model.head.bias.data = model.head.bias.data.clone()


def new_parameter(model):
    model.head.bias = nn.Parameter(torch.zeros(10))


def no_parameter(model):
    model.head.bias = None


def new_layer(model):
    model.head = nn.Linear(16, 10)


def additional_layer(model):
    model.blocks.append(nn.Identity())


def hook(model):
    model.head.register_forward_hook(lambda *args: None)


def pre_hook(model):
    model.blocks[1].register_forward_pre_hook(lambda *args: None)


def training(model):
    model.pool.train()


def plain_attribute(model):
    model.offset = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (assign, "stem.weight was moved or replaced"),
        (cast, "stem.weight was moved or replaced"),
        (new_data, "head.bias was moved or replaced"),
        (new_parameter, "head.bias was moved or replaced"),
        (no_parameter, "head.bias was moved or replaced"),
        (new_layer, "a layer of the network was replaced, added or removed"),
        (additional_layer, "a layer of blocks was replaced, added or removed"),
        (hook, "a hook of head was added or removed"),
        (pre_hook, "a hook of blocks.1 was added or removed"),
        (training, "the mode (training or evaluation) of pool was changed"),
        (plain_attribute, "offset was moved or replaced"),
    ],
)
def test_other_changes_are_found(change, message):
    model = network()
    model.offset = torch.zeros(1)
    frozen = Frozen(model)
    assert frozen.change() is None
    change(model)
    assert frozen.change() == message


def test_hook_of_all_layers_is_found():
    frozen = Frozen(network())
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    try:
        assert frozen.change() == "a hook of all layers was added or removed"
    finally:
        handle.remove()
    assert frozen.change() is None


def test_replaced_weights_stay_in_memory():
    """A graph that was recorded before must not read freed memory."""
    model = network()
    frozen, address = Frozen(model), model.stem.weight.data_ptr()
    model.stem.weight.data = torch.zeros_like(model.stem.weight)
    assert address in [value.data_ptr() for value in frozen._alive]


@pytest.mark.slow
def test_check_takes_less_time_than_a_graph():
    frozen = Frozen(lower(build("resnet75_mod")))
    times_s = []
    for _ in range(50):
        start = time.perf_counter()
        assert frozen.change() is None
        times_s.append(time.perf_counter() - start)
    assert min(times_s) < 300e-6

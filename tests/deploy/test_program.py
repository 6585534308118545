"""The programs of Conv-Blocks. `test_fused.py` tests that the fused operator runs them."""

import pytest
import torch
from torch import nn

from cnnmod.deploy.program import NoProgramError, read_program
from form_pairs import Ends

CONVOLUTION, RELU, SUM = 0, 1, 2  # the operations of fused.cpp


def test_program_has_one_step_for_each_operation():
    block = nn.Sequential(nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=2, dilation=2, groups=2))
    program = read_program(block, 6)
    assert program.layers == ["0", "2"]
    assert program.registers == 4
    assert program.steps == [
        *(CONVOLUTION, 1, 0, 0, 0, 1, 1),  # writes register 1, reads register 0, layer 0, padding, dilation, groups
        *(RELU, 2, 1, 0, 0, 0, 0),
        *(CONVOLUTION, 3, 2, 1, 2, 2, 2),
    ]


def test_layers_that_compute_nothing_have_no_step():
    block = nn.Sequential(nn.Conv2d(6, 6, 1), nn.Identity(), nn.Dropout(0.0))
    assert read_program(block, 6).registers == 2


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(6, 6, 3, padding=1), nn.GELU()],
        [nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")],
        [nn.Conv2d(6, 6, 2, padding="same")],
        [nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)],
    ],
    ids=str,
)
def test_unsupported_layers_have_no_program(layers):
    with pytest.raises(NoProgramError):
        read_program(nn.Sequential(*layers), 6)


@pytest.mark.parametrize("channels", [4, 8])
def test_wrong_number_of_channels_has_no_program(channels):
    with pytest.raises(NoProgramError):
        read_program(nn.Sequential(nn.Conv2d(6, 6, 1), nn.Conv2d(6, channels, 1)), 6)
    with pytest.raises(NoProgramError):
        read_program(nn.Conv2d(6, 6, 1), channels)


def test_layer_with_a_hook_has_no_program():
    block = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU())
    block[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(NoProgramError):
        read_program(block, 6)


def test_sums_are_steps():
    program = read_program(Ends(lambda y, x: torch.relu(y + x)), 6)
    assert program.steps[7:14] == [SUM, 2, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "end",
    [
        lambda y, x: y.relu_() + y,  # reads an overwritten tensor
        lambda y, x: x.relu_() + y + x,
        lambda y, x: torch.add(y, x, alpha=2),
        lambda y, x: y + 1,
        lambda y, x: (y, x),
        lambda y, x: x,
        lambda y, x: y if x.shape[-1] > 8 else x,  # the graph depends on the input
    ],
)
def test_unsupported_graphs_have_no_program(end):
    with pytest.raises(NoProgramError):
        read_program(Ends(end), 6)

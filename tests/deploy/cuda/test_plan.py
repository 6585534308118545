import pytest
from cuda_cases import Branch
from host_kernels import H100
from torch import nn

from cnnmod.deploy.cuda.plan import Limits, lay_out, plan_kernels
from cnnmod.deploy.program import read_program


def layout_of(conv_block, k):
    program = read_program(conv_block, k)
    layers = [conv_block.get_submodule(name) for name in program.layers]
    return lay_out(tuple(program.steps), tuple(tuple(layer.weight.shape) for layer in layers), k)


def bottleneck(k, hidden):
    layers = [nn.Conv2d(k, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(hidden, k, 1))


def test_memory_of_registers_is_used_again():
    """The first hidden layer lies after the input. The second and the result overwrite the input."""
    layout = layout_of(bottleneck(16, 4), 16)
    assert [(step.target, step.source) for step in layout.steps] == [(16, 0), (16, 16), (0, 16), (0, 0), (4, 0)]
    assert (layout.channels, layout.output, layout.halo) == (20, 4, 1)


def test_a_residual_connection_keeps_the_input():
    layout = layout_of(Branch(*bottleneck(16, 4)), 16)
    assert all(step.target >= 16 for step in layout.steps[:-1])
    assert layout.steps[-1].target in (0, layout.steps[-1].source, layout.steps[-1].other)


def test_the_halo_is_the_sum_of_all_paddings():
    convolutions = nn.Conv2d(4, 4, 5, padding=2), nn.Conv2d(4, 4, 3, padding=2, dilation=2)
    assert layout_of(nn.Sequential(*convolutions), 4).halo == 4


@pytest.mark.parametrize(
    ("shape", "pool", "limits", "kernels"),
    [
        ((1, 1024, 14, 14), 64, H100, "mod_block"),
        ((1, 1024, 14, 14), 1024, H100, "pool + mod_block"),
        ((256, 1024, 14, 14), 1024, H100, "mod_block"),
        ((1, 1024, 56, 56), 64, H100, "pool + select_channels + tiles + add_result"),
        ((1, 1024, 14, 14), 64, Limits(12 * 1024, 132), "pool + select_channels + tiles + add_result"),
        ((1, 1024, 14, 4096), 64, H100, "None"),
    ],
    ids=str,
)
def test_kernels_depend_on_the_shape_and_the_gpu(shape, pool, limits, kernels):
    plan = plan_kernels(layout_of(bottleneck(16, 4), 16), shape, pool, 64, 16, 2, limits)
    assert str(plan) == kernels


def test_all_rows_are_in_a_tile_and_all_channels_are_pooled():
    layout = layout_of(bottleneck(16, 4), 16)
    plan = plan_kernels(layout, (3, 1024, 57, 33), 1000, 64, 16, 2, Limits(64 * 1024, 132))
    assert plan is not None
    pool, _, tiles, _ = plan.launches
    assert tiles.grid[1] * plan.tile_rows >= 57 > (tiles.grid[1] - 1) * plan.tile_rows
    assert pool.grid[1] * 64 >= 1000 > (pool.grid[1] - 1) * 64
    assert all(launch.grid[0] == 3 for launch in plan.launches)


def test_a_weight_that_does_not_fit_raises():
    program = read_program(bottleneck(16, 4), 16)
    with pytest.raises(ValueError, match=r"a weight of shape \(4, 8, 1, 1\) does not fit 16 channels"):
        lay_out(tuple(program.steps), ((4, 8, 1, 1), (4, 4, 3, 3), (16, 4, 1, 1)), 16)

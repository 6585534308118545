import pytest
import torch

from cnnmod import mod_blocks
from cnnmod.training.data import open_data
from cnnmod.training.loop import train
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import build_row
from cnnmod.training.step import make_optimizer


@pytest.mark.parametrize(("optimizer", "scale"), [("sgd", 1), ("momentum", 1), ("muon", 0.005), ("lamb", 0.005)])
def test_only_sgd_takes_full_steps_with_the_selectors(optimizer, scale):
    made = recipe("digits", [f"optimizer={optimizer}", "learning_rate=0.1", "warmup_epochs=0"])
    model = build_row(made, "mod", 10)
    made_optimizer, schedule = make_optimizer(model, made, steps=4)
    schedule.step_update(0)
    selectors = {id(weight) for block in mod_blocks(model).values() for weight in block.selector.parameters()}
    rates = {id(weight): group["lr"] for group in made_optimizer.param_groups for weight in group["params"]}
    assert rates.keys() == {id(weight) for weight in model.parameters()}
    assert all(rate == pytest.approx(0.1 * (scale if weight in selectors else 1)) for weight, rate in rates.items())


def test_selectors_survive_an_optimizer_that_makes_steps_of_one_length():
    """With full steps every hidden unit of some selectors is below zero for every image after these."""
    made = recipe("digits", ["optimizer=muon", "learning_rate=0.02", "epochs=4", "warmup_epochs=0", "batch_size=32"])
    data = open_data("digits", made)
    torch.manual_seed(0)
    model = train(build_row(made, "mod", 10), data, made).eval()
    alive = []
    for block in mod_blocks(model).values():
        block.register_forward_pre_hook(
            lambda block, inputs: alive.append(bool((block.selector.reduce(inputs[0].mean((2, 3))) > 0).any()))
        )
    with torch.no_grad():
        model(next(iter(data.test.batches([torch.arange(64)]))).images)
    assert len(alive) == len(mod_blocks(model))
    assert all(alive)

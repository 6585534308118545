import contextlib
import copy
import json

import pytest
import torch
from torch import nn

from cnnmod import MoDBlock, mod_blocks
from cnnmod.training import step as step_module
from cnnmod.training.data import open_data
from cnnmod.training.images import Batch
from cnnmod.training.loop import train
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import build_row
from cnnmod.training.step import Step, autocast, compiled, make_optimizer

CPU = torch.device("cpu")
RECIPE = recipe("digits", ["optimizer=momentum", "momentum=0", "weight_decay=0", "learning_rate=0.1"])


def changed(**fields):
    """Return the recipe with changed options."""
    return RECIPE.changed([f"{name}={json.dumps(value)}" for name, value in fields.items()])


def network():
    """Return a network without batch norm, whose statistics would differ between the parts of a batch."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


def batch(count=12):
    torch.manual_seed(1)
    return Batch(torch.randn(count, 1, 8, 8), torch.randint(0, 10, (count,)))


def cross_entropy(model, images, labels):
    return nn.functional.cross_entropy(model(images), labels)


def make_step(how=RECIPE, model=None, forward=None, scale=None):
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=how.optimization.learning_rate)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    return Step(how, model, forward or model, cross_entropy, optimizer, scaler)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_step_is_one_step_of_gradient_descent():
    step, plain, some = make_step(), network(), batch()
    loss = cross_entropy(plain, some.images, some.labels)
    loss.backward()
    found = step(some)
    torch.testing.assert_close(found, loss.detach())
    assert not found.requires_grad
    gradient = torch.cat([parameter.grad.flatten() for parameter in plain.parameters() if parameter.grad is not None])
    torch.testing.assert_close(weights(step.model), weights(plain) - 0.1 * gradient)


def test_gradients_are_reset_between_steps():
    """With almost no learning rate, two steps with the same batch have the same gradient."""
    step = make_step(changed(learning_rate=1e-20))
    step(batch())
    first = [parameter.grad.clone() for parameter in step.model.parameters() if parameter.grad is not None]
    step(batch())
    torch.testing.assert_close([parameter.grad for parameter in step.model.parameters()], first)


def test_compiled_gradients_of_a_selector_equal_eager_gradients_under_autocast():
    """Gradients that are computed under autocast differ by about 0.3 %."""
    how = changed(precision="bf16")
    torch.manual_seed(0)
    block = MoDBlock(nn.Conv2d(4, 4, 3, padding=1), channels=64, k=4)
    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), block, nn.Flatten(), nn.Linear(64 * 36, 10))
    gradients = []
    for compiles in (False, True):
        network = copy.deepcopy(model)
        make_step(how, network, compiled(network, how, CPU, backend="aot_eager") if compiles else network)(batch())
        gradients.append([parameter.grad for parameter in network.get_submodule("2.selector").parameters()])
    assert min(gradient.abs().max() for gradient in gradients[0]) > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("count", "parts"), [(12, [3, 3, 3, 3]), (10, [3, 3, 3, 1])])
def test_accumulated_gradients_equal_those_of_the_whole_batch(count, parts):
    whole, seen = make_step(), []

    def forward(images):
        seen.append(len(images))
        return model(images)

    model = network()
    in_parts = make_step(changed(accumulate=4), model, forward)
    torch.testing.assert_close(in_parts(batch(count)), whole(batch(count)))
    assert seen == parts
    assert not torch.equal(weights(model), weights(network()))
    torch.testing.assert_close(weights(model), weights(whole.model), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_gradients_are_unscaled_before_clipping(scale):
    step = make_step(changed(clip_grad=0.01), scale=scale)
    before = weights(step.model)
    step(batch())
    assert (weights(step.model) - before).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_scaled_loss_gives_the_same_step_and_overflow_skips_it():
    plain, scaled = make_step(), make_step(scale=1024.0)
    torch.testing.assert_close(scaled(batch()), plain(batch()))
    torch.testing.assert_close(weights(scaled.model), weights(plain.model))
    too_much = make_step(scale=3e38)
    before = weights(too_much.model)
    too_much(Batch(1e6 * batch().images, batch().labels))
    assert torch.equal(weights(too_much.model), before)
    assert too_much.scaler.get_scale() < 3e38


@pytest.mark.parametrize("channels_last", [False, True])
def test_batch_has_the_memory_format_of_the_recipe(channels_last):
    formats = []

    def forward(images):
        formats.append(images.is_contiguous(memory_format=torch.channels_last))
        return nn.functional.adaptive_avg_pool2d(images, 1).flatten(1) @ weight

    weight = nn.Parameter(torch.zeros(3, 10))
    how = changed(channels_last=channels_last)
    step = make_step(how, nn.ParameterList([weight]), forward)
    for given in (torch.contiguous_format, torch.channels_last):
        step(Batch(torch.randn(4, 3, 8, 8).contiguous(memory_format=given), torch.arange(4)))
    assert formats == [channels_last, channels_last]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_forward_runs_in_the_precision_of_the_recipe(precision, dtype):
    how = changed(precision=precision)
    with autocast(how, CPU)():
        assert torch.is_autocast_enabled("cpu") == (dtype is not None)
        assert dtype is None or torch.get_autocast_dtype("cpu") == dtype
    seen = []

    def forward(images):
        seen.append(torch.is_autocast_enabled("cpu"))
        return model(images).float()

    model = network()
    make_step(how, model, forward)(batch())
    assert seen == [dtype is not None]


@pytest.mark.parametrize(("images", "shared"), [(12, [True, True, False]), (4, [True, False]), (1, [False])])
def test_gradients_are_synchronized_once_per_step(images, shared, monkeypatch):
    """All parts except the last run in `no_sync`, even if there are fewer parts than `accumulate`."""
    within, seen = [False], []

    class Shared(nn.Sequential):
        @contextlib.contextmanager
        def no_sync(self):
            within[0] = True
            yield
            within[0] = False

        def forward(self, images):
            seen.append(within[0])
            return super().forward(images)

    monkeypatch.setattr(step_module, "DistributedDataParallel", Shared)
    make_step(changed(accumulate=3), Shared(network()))(batch(images))
    assert seen == shared


class TestOptimizer:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))

    def rates(self, steps, **fields):
        optimizer, schedule = make_optimizer(copy.deepcopy(self.model), changed(**fields), steps)
        found = []
        for number in range(steps * fields["epochs"]):
            schedule.step_update(number)
            found.append(optimizer.param_groups[0]["lr"])
        return found

    def test_has_the_settings_of_the_recipe(self):
        how = changed(momentum=0.7, weight_decay=0.3, warmup_epochs=0)
        optimizer, _ = make_optimizer(self.model, how, 10)
        assert type(optimizer) is torch.optim.SGD
        assert [(group["momentum"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.7, 0.3)]
        assert optimizer.param_groups[0]["nesterov"] is False
        assert make_optimizer(self.model, recipe("digits"), 10)[0].param_groups[0]["nesterov"] is True

    def test_decay_norms_controls_weight_decay_of_norms_and_biases(self):
        how = changed(weight_decay=0.3, decay_norms=False)
        optimizer, _ = make_optimizer(self.model, how, 10)
        decay = {id(one): group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}
        found = {name: decay[id(one)] for name, one in self.model.named_parameters()}
        assert found == {"0.weight": 0.3, "0.bias": 0, "1.weight": 0, "1.bias": 0}

    def test_step_schedule_lowers_the_rate_at_the_milestones(self):
        found = self.rates(10, schedule="step", milestones=(1, 3), decay=0.5, epochs=4, warmup_epochs=0)
        assert found == [0.1] * 9 + [0.05] * 20 + [0.025] * 11  # timm's schedule reaches milestones one step early

    def test_poly_schedule_decays_to_one_hundredth(self):
        found = self.rates(10, schedule="poly", decay=0.9, epochs=4, warmup_epochs=0)
        least = RECIPE.optimization.learning_rate / 100
        expected = [least + (RECIPE.optimization.learning_rate - least) * (1 - step / 40) ** 0.9 for step in range(40)]
        assert found == pytest.approx(expected)

    def test_cosine_schedule_decays_to_0(self):
        found = self.rates(10, schedule="cosine", epochs=4, warmup_epochs=0)
        assert found[0] == 0.1
        assert found[20] == pytest.approx(0.05)
        assert found[39] < 0.001
        assert found == sorted(found, reverse=True)

    def test_warmup_starts_at_0(self):
        found = self.rates(4, schedule="cosine", epochs=4, warmup_epochs=1)
        assert found[:4] == pytest.approx([0, 0.025, 0.05, 0.075])


@pytest.mark.parametrize(("optimizer", "scale"), [("sgd", 1), ("momentum", 1), ("muon", 0.005), ("lamb", 0.005)])
def test_only_sgd_uses_the_full_learning_rate_for_selectors(optimizer, scale):
    made = recipe("digits", [f"optimizer={optimizer}", "learning_rate=0.1", "warmup_epochs=0"])
    model = build_row(made, "mod", 10)
    made_optimizer, schedule = make_optimizer(model, made, steps=4)
    schedule.step_update(0)
    selectors = {id(weight) for block in mod_blocks(model).values() for weight in block.selector.parameters()}
    rates = {id(weight): group["lr"] for group in made_optimizer.param_groups for weight in group["params"]}
    assert rates.keys() == {id(weight) for weight in model.parameters()}
    assert all(rate == pytest.approx(0.1 * (scale if weight in selectors else 1)) for weight, rate in rates.items())


@pytest.mark.slow
def test_selectors_do_not_collapse_with_muon():
    """With the full learning rate, all hidden units of some selectors would be zero for all images."""
    made = recipe("digits", ["optimizer=muon", "learning_rate=0.02", "epochs=4", "warmup_epochs=0", "batch_size=32"])
    data = open_data("digits", made)
    torch.manual_seed(1)  # with seed 0, all hidden units of one selector are zero at the start
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


@pytest.mark.parametrize(
    ("name", "scale"), [("sgd", 1), ("nesterov", 1), ("SGD", 1), ("momentum", 1), ("adamw", 0.005), ("muon", 0.005)]
)
def test_selectors_have_a_smaller_learning_rate_except_with_sgd(name, scale):
    made = RECIPE.changed([f"optimizer={name}", "momentum=0.9"])
    optimizer, _ = make_optimizer(build_row(made, "mod", 10), made, 10)
    assert [group["lr_scale"] for group in optimizer.param_groups] == [1, scale]

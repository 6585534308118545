import copy
import itertools

import pytest
import torch
from torch import nn

from cnnmod.training.data import open_data
from cnnmod.training.evaluate import evaluate
from cnnmod.training.loop import train
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import build_row
from small import SHORT_DIGITS

SHORT = [*SHORT_DIGITS, "epochs=2"]


class Looks:
    """A record that stores what the loop logs and saves no files."""

    def __init__(self):
        self.logged, self.best = [], []

    def restore(self, state):
        return {}

    def save(self, state, progress, loss):
        self.progress = progress

    def save_best(self, model):
        self.best.append(self.logged[-1]["validation_top1_pct"])

    def log(self, values):
        self.logged.append(values)


def trained(*changes, row="mod", seed=0, model=None):
    """Return a network after a short training, and its record."""
    made = recipe("digits", [*SHORT, *changes])
    torch.manual_seed(seed)
    record = Looks()
    model = build_row(made, row, 10) if model is None else model
    tested = train(model, open_data("digits", made), made, seed=seed, record=record)
    return tested, record


def weights(model):
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


@pytest.fixture(scope="module")
def plain():
    return trained()[0]


@pytest.mark.parametrize(
    "row",
    ["mod", pytest.param("baseline", marks=pytest.mark.slow), pytest.param("control", marks=pytest.mark.slow)],
)
def test_training_improves_accuracy(row):
    made = recipe("digits", ["epochs=3", "warmup_epochs=1", "network_args.layers=[2,2,1,1]"])
    data = open_data("digits", made)
    model = train(build_row(made, row, 10), data, made)
    assert not model.training
    assert evaluate(model, data.test, 10).top1_pct > 85


def test_training_is_deterministic_for_a_seed(plain):
    assert torch.equal(weights(trained()[0]), weights(plain))
    assert not torch.equal(weights(trained(seed=1)[0]), weights(plain))


def test_learning_rate_follows_the_schedule():
    def linear():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    linear_run = ["train_images=256", "batch_size=8", "learning_rate=0.1"]
    rates = {}
    for schedule in (["schedule=cosine"], ["schedule=step", "milestones=[1]", "decay=0.5"]):
        _, record = trained(*schedule, *linear_run, "epochs=4", model=linear())
        rates[schedule[0]] = [line["learning_rate"] for line in record.logged]
    assert rates["schedule=step"] == [0.1] + [0.05] * 9  # logged at the steps 20, 32, 40, 60, …
    assert all(first > second for first, second in itertools.pairwise(rates["schedule=cosine"]))
    _, record = trained(*linear_run, "warmup_epochs=1", model=linear())
    assert record.logged[0]["learning_rate"] == pytest.approx(0.1 * 19 / 32)


@pytest.mark.parametrize(
    "change",
    [
        ["label_smoothing=0.2"],
        ["mixup=0.5"],
        ["cutmix=1.0"],
        ["mixup=0.5", "cutmix=1.0"],
        ["clip_grad=0.01"],
        ["ema_decay=0.9"],
        ["precision=bf16"],
        ["optimizer=lamb", "learning_rate=0.005"],
        ["decay_norms=false", "weight_decay=0.1"],
    ],
    ids=lambda change: ",".join(change),
)
def test_each_option_changes_the_weights(change, plain):
    model, record = trained(*change)
    assert not torch.equal(weights(model), weights(plain))
    assert torch.isfinite(weights(model)).all()
    assert record.progress["step"] == 4
    assert torch.equal(weights(trained(*change)[0]), weights(model))


def test_channels_last_does_not_change_the_result():
    """Only one epoch of one step is compared, since rounding errors grow."""
    one = ["epochs=1", "train_images=64"]
    model, _ = trained("channels_last=true", *one)
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(weights(model), weights(trained(*one)[0]), rtol=0, atol=1e-5)


def test_moving_average_is_returned(plain):
    model, _ = trained("ema_decay=0.5")
    assert not torch.equal(weights(model), weights(plain))


def test_student_equal_to_its_teacher_does_not_change():
    """With distill_weight=1 and the weights of the teacher, the loss is zero."""
    made = recipe("digits", SHORT)
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    start = weights(teacher)
    data = open_data("digits", made)
    moved = {}
    for weight in (0.0, 1.0):
        student = copy.deepcopy(teacher)
        changes = [*SHORT, f"distill_weight={weight}", "weight_decay=0", "distill_temperature=2"]
        how = recipe("digits", changes)
        train(student, data, how, loss=how.task.loss_with(teacher, 10, torch.device("cpu")))
        moved[weight] = (weights(student) - start).abs().max().item()
    assert moved[1.0] < 1e-6
    assert moved[0.0] > 1e-3
    assert torch.equal(weights(teacher), start)


def test_best_checkpoint_is_selected_on_validation_images():
    _, record = trained("validation_fraction=0.1", "epochs=4", "train_images=512")
    accuracies = [line["validation_top1_pct"] for line in record.logged if "validation_top1_pct" in line]
    assert len(accuracies) == 4
    running = [value for number, value in enumerate(accuracies) if value > max(accuracies[:number], default=-1)]
    assert record.best == running
    assert record.progress["best"] == max(accuracies)


class TestErrors:
    def test_non_finite_loss_raises(self):
        with pytest.raises(FloatingPointError, match=r"the loss is nan at step \d+ .*; try a lower learning rate"):
            trained("learning_rate=1e30")

    def test_too_few_images_raise(self):
        with pytest.raises(ValueError, match="there are 30 training images, fewer than batch_size = 64"):
            trained("train_images=30")

    def test_indivisible_batch_size_raises(self):
        with pytest.raises(ValueError, match="batch_size = 64 is not a multiple of 1 processes × accumulate = 5"):
            trained("accumulate=5")

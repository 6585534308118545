import pytest

from cnnmod.training.recipes import recipe


def test_the_papers():
    imagenet = recipe("imagenet")
    assert (imagenet.epochs, imagenet.batch_size, imagenet.learning_rate) == (100, 256, 0.1)
    assert (imagenet.milestones, imagenet.decay, imagenet.weight_decay) == ((30, 60, 90), 0.1, 1e-4)
    assert recipe("cifar10").milestones == (90, 136)
    assert recipe("cifar100").milestones == (60, 120, 160)
    assert recipe("cifar10").validation_fraction == 0.1
    assert recipe("cifar10_fast").epochs <= 10


def test_with_changes():
    made = recipe("cifar10", ["epochs=3"])
    assert made.epochs == 3
    assert made == recipe("cifar10").changed(["epochs=3"])


def test_unknown_recipes():
    with pytest.raises(ValueError, match="unknown recipe 'cifar'; did you mean cifar10"):
        recipe("cifar")

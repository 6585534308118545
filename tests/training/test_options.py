"""Each part of a recipe and each task checks the ranges of its options."""

import dataclasses
import math

import pytest

from cnnmod.training.recipes import recipe

RANGES = {  # text of the error → a value below, an accepted value, a value above
    "≥ 1": (0, 1, None),
    "> 0": (0, 1e-9, None),
    "≥ 0": (-1, 0, None),
    "from 0 to less than 1": (-0.1, 0, 1),
    "from 0 to 1": (-0.1, 1, 1.1),
}
FIELDS = {
    "≥ 1": ("epochs", "batch_size", "accumulate"),
    "> 0": ("learning_rate", "distill_temperature", "crop_pct"),
    "≥ 0": ("weight_decay", "momentum", "warmup_epochs", "mixup", "cutmix", "clip_grad", "decay"),
    "from 0 to less than 1": ("validation_fraction", "label_smoothing", "ema_decay"),
    "from 0 to 1": ("distill_weight", "random_erasing"),
}


@pytest.mark.parametrize(("words", "name"), [(words, name) for words, names in FIELDS.items() for name in names])
def test_values_outside_the_range_raise(words, name):
    below, accepted, above = RANGES[words]
    made = recipe("imagenet")
    (part,) = (part for part in (made.task, made.images, made.optimization) if hasattr(part, name))
    assert getattr(dataclasses.replace(part, **{name: accepted}), name) == accepted
    for wrong in (below, above, None if words == "≥ 1" else math.nan):
        if wrong is not None:
            with pytest.raises(ValueError, match=f"^{name} must be {words}, not {wrong}$"):
                dataclasses.replace(part, **{name: wrong})


def test_zero_channels_raise():
    with pytest.raises(ValueError, match="in_channels must be ≥ 1, not 0"):
        dataclasses.replace(recipe("digits").images, in_channels=0, mean=(), std=())

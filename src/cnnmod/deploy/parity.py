"""Does a written file compute what the network computes in eager PyTorch, and if not exactly, how nearly?"""

import copy
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.live import has_plain_selector
from cnnmod.deploy.outputs import named_outputs
from cnnmod.deploy.selector import SELECTED
from cnnmod.method.convert import mod_blocks
from cnnmod.method.record import recorded_selection

Run = Callable[[Tensor], dict[str, Tensor]]  # images → outputs by name, among them the selected channels


@dataclass(frozen=True)
class Parity:
    """How far a file is from the network.

    Attributes:
        largest_error: Of any output on any image that selects alike, relative to the output's largest value; of
            integers and booleans the share that differs. Infinite where the file's output is not a number and the
            network's is, or no image selects alike.
        selection_agreement: The share of the selected channels that are the same, in the same place where
            `config.order` is `"score"`; 1 without MoD blocks.
        output: The name of the output with the largest error.
        seed: Of the input with the largest error.
    """

    largest_error: float
    selection_agreement: float
    output: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How nearly a file does what the network does, of real images.

    Attributes:
        images: How many were compared.
        top1: The share of images with the same highest logit; `None` of a network that is no classifier.
        selection: The share of the selected channels that are selected by both, in whatever order; 1 without MoD
            blocks.
        selection_in_order: The share that both select in the same place.
    """

    images: int
    top1: float | None
    selection: float
    selection_in_order: float


def check_agreement(model: nn.Module, run: Run, batches: Iterable[Tensor]) -> Agreement:
    """Compare classes and selections.

    Args:
        model: The network, in evaluation mode.
        run: The file in its runtime.
        batches: Images (N, C, H, W).
    """
    images = same_class = selected_by_both = in_order = selected_channels = 0
    is_classifier = True
    for images_NCHW in batches:
        with torch.inference_mode(), recorded_selection(model) as selected:
            expected = model(images_NCHW)
        found = run(images_NCHW)
        images += len(images_NCHW)
        for block, (index_NK,) in selected.items():
            if (theirs := found.get(f"{block}{SELECTED}")) is not None:
                theirs_NK = theirs.flatten(1)
                selected_by_both += int((index_NK[:, :, None] == theirs_NK[:, None]).sum())
                in_order += int((index_NK == theirs_NK).sum())
                selected_channels += index_NK.numel()
        is_classifier = is_classifier and isinstance(expected, Tensor) and expected.ndim == 2
        if is_classifier:
            (name,) = named_outputs(expected)
            same_class += int((found[name].argmax(1) == expected.argmax(1)).sum())
    return Agreement(
        images=images,
        top1=same_class / images if is_classifier else None,
        selection=selected_by_both / selected_channels if selected_channels else 1.0,
        selection_in_order=in_order / selected_channels if selected_channels else 1.0,
    )


def check_parity(model: nn.Module, run: Run, example: Tensor, batch_sizes: Sequence[int]) -> Parity:
    """Compare outputs and selections, on random images and on a black one.

    Args:
        model: The network, in evaluation mode.
        run: The file in its runtime.
        example: Images (N, C, H, W); random ones are drawn with its mean and standard deviation.
        batch_sizes: How many images at a time.

    Raises:
        ValueError: The file's outputs have other names, types or shapes than the network's, or the network's own are
            not numbers.
    """
    order = {name: block.config.order for name, block in mod_blocks(model).items()}
    device = next(model.parameters(), example).device
    errors: dict[str, list[tuple[float, int]]] = defaultdict(list)  # of each output
    same, all_of_them = 0, 0
    for seed, images_NCHW in _inputs(example, batch_sizes):
        with torch.inference_mode(), recorded_selection(model) as selected:
            returned = named_outputs(model(images_NCHW.to(device)))
        expected = {name: value.cpu() for name, value in returned.items()}
        found = {name: value.cpu() for name, value in run(images_NCHW).items()}
        alike_N = torch.ones(len(images_NCHW), dtype=torch.bool)
        for block, (index_NK,) in selected.items():
            if (theirs := found.pop(f"{block}{SELECTED}", None)) is not None:
                theirs_NK = theirs.flatten(1)
                if order[block] == "index":  # what a file names stands by score
                    index_NK, theirs_NK = index_NK.sort(1).values, theirs_NK.sort(1).values
                equal_NK = index_NK == theirs_NK
                same, all_of_them = same + int(equal_NK.sum()), all_of_them + equal_NK.numel()
                alike_N &= equal_NK.all(1)
        _check_outputs(found, expected, seed)
        for name, wanted in expected.items():
            if (chosen := _comparable(wanted, alike_N)) is not None:
                errors[name].append((_error(found[name][chosen], wanted[chosen]), seed))
            else:
                errors[name] += []
    worst = {name: max(of_inputs, default=(math.inf, 0)) for name, of_inputs in errors.items()}
    output, (largest_error, seed_of_it) = max(worst.items(), key=lambda one: one[1])
    return Parity(largest_error, same / all_of_them if all_of_them else 1.0, output, seed_of_it)


def _check_outputs(found: dict[str, Tensor], expected: dict[str, Tensor], seed: int) -> None:
    if found.keys() != expected.keys():
        raise ValueError(f"the file's outputs are {', '.join(found)}, the network's {', '.join(expected)}")
    for name, wanted in expected.items():
        ours, theirs = ((str(one.dtype), tuple(one.shape)) for one in (wanted, found[name]))
        if ours != theirs:
            raise ValueError(f"the file's output {name!r} is {_said(theirs)}, the network's {_said(ours)}")
        if seed >= 0 and wanted.isnan().any():
            raise ValueError(
                f"the network itself gives NaN in {name!r} on the input of seed {seed}, so that the file cannot be "
                "checked"
            )


def _said(kind: tuple[str, tuple[int, ...]]) -> str:
    return f"{kind[0]} {kind[1]}"


def _comparable(value: Tensor, alike_N: Tensor) -> Any:
    """Which part of an output belongs to images that select alike; `None` for nothing."""
    if alike_N.all():
        return ...
    return alike_N if value.ndim and len(value) == len(alike_N) and alike_N.any() else None


def _error(output: Tensor, wanted: Tensor) -> float:
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return float((output != wanted).float().mean()) if wanted.numel() else 0.0
    rounding = torch.finfo(wanted.dtype).eps if wanted.dtype.itemsize == 2 else 0.0
    if rounding:
        output, wanted = output.float(), wanted.float()
    equal = (output == wanted) | (output.isnan() & wanted.isnan())
    if equal.all():
        return 0.0  # also where all outputs are zero, or there are none
    largest = wanted[wanted.isfinite()].abs().max() if wanted.isfinite().any() else 0
    if not (output.isfinite() & wanted.isfinite())[~equal].all() or largest == 0:
        return math.inf
    difference = ((output - wanted).abs() - rounding * wanted.abs())[~equal].max()
    return float(difference.clamp_min(0) / largest)


def _inputs(example: Tensor, batch_sizes: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    std, mean = torch.std_mean(example, correction=0)
    std = torch.where(std > 0, std, 1.0)  # of an example of zeros, too, the images are random
    for seed, count in enumerate(batch_sizes):
        generator = torch.Generator().manual_seed(seed)
        yield seed, torch.randn(count, *example.shape[1:], generator=generator) * std + mean
    yield -1, torch.zeros(batch_sizes[-1], *example.shape[1:])


def tied(model: nn.Module) -> nn.Module:
    """A copy whose channel selectors score channels alike in groups, so that a runtime must break ties as we do.

    The groups' size does not divide k, so that one of them is only selected in part.
    """
    model = copy.deepcopy(model)
    for block in mod_blocks(model).values():
        if block.config.select == "learned":
            size = next(size for size in itertools.count(2) if block.k % size)
            first_C = torch.arange(block.num_candidates) // size
            if has_plain_selector(block):  # of which a form may read the weights
                weight = block.selector.expand.weight.data
                weight.copy_(weight[first_C].clone())
            else:
                block.selector.register_module("expand", _Tied(block.selector.expand, first_C))
    return model


class _Tied(nn.Module):
    """A layer whose outputs are copies of some of them."""

    first_C: Tensor

    def __init__(self, layer: nn.Module, first_C: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("first_C", first_C)

    def forward(self, hidden_NC: Tensor) -> Tensor:
        return self.layer(hidden_NC).index_select(1, self.first_C)

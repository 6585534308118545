"""Does a written file compute what the network computes in eager PyTorch, and if not exactly, how nearly?"""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnmod.deploy.selector import SELECTED
from cnnmod.method.convert import mod_blocks
from cnnmod.method.record import recorded_selection

Run = Callable[[Tensor], dict[str, Tensor]]  # images → outputs by name, among them the selected channels


@dataclass(frozen=True)
class Parity:
    """How far a file is from the network.

    Attributes:
        largest_error: Of any output on any image that selects alike, relative to the largest output; infinite where
            an output is not a number, or no image selects alike.
        selection_agreement: The share of the selected channels that are the same, in the same place where
            `config.order` is `"score"`; 1 without MoD blocks.
        seed: Of the input with the largest error.
    """

    largest_error: float
    selection_agreement: float
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
            logits = next(value for name, value in found.items() if not name.endswith(SELECTED))
            same_class += int((logits.argmax(1) == expected.argmax(1)).sum())
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
    """
    order = {name: block.config.order for name, block in mod_blocks(model).items()}
    errors: list[tuple[float, int]] = []
    same, all_of_them = 0, 0
    for seed, images_NCHW in _inputs(example, batch_sizes):
        with torch.inference_mode(), recorded_selection(model) as selected:
            expected = [leaf for leaf in tree_leaves(model(images_NCHW)) if isinstance(leaf, Tensor)]
        found = run(images_NCHW)
        alike_N = torch.ones(len(images_NCHW), dtype=torch.bool)
        for block, (index_NK,) in selected.items():
            if (theirs := found.get(f"{block}{SELECTED}")) is not None:
                theirs_NK = theirs.flatten(1)
                if order[block] == "index":  # what a file names stands by score
                    index_NK, theirs_NK = index_NK.sort(1).values, theirs_NK.sort(1).values
                equal_NK = index_NK == theirs_NK
                same, all_of_them = same + int(equal_NK.sum()), all_of_them + equal_NK.numel()
                alike_N &= equal_NK.all(1)
        outputs = [value for name, value in found.items() if not name.endswith(SELECTED)]
        if alike_N.any():
            errors += [(_error(*pair, alike_N), seed) for pair in zip(outputs, expected, strict=True)]
    largest_error, seed_of_it = max(errors, default=(math.inf, 0))
    return Parity(largest_error, same / all_of_them if all_of_them else 1.0, seed_of_it)


def _error(output: Tensor, wanted: Tensor, alike_N: Tensor) -> float:
    difference = float((output - wanted)[alike_N].abs().max())
    if difference == 0:
        return 0.0  # also where all outputs are zero
    error = difference / float(wanted.abs().max())
    return math.inf if math.isnan(error) else error


def _inputs(example: Tensor, batch_sizes: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    std, mean = torch.std_mean(example)
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
            weight = block.selector.expand.weight.data
            weight.copy_(weight[torch.arange(len(weight)) // size].clone())
    return model

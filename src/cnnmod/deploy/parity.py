"""Compare a written file with the network in eager PyTorch: outputs, classes and selected channels."""

import itertools
import logging
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
from cnnmod.method.copying import copied
from cnnmod.method.record import recorded_selection

logger = logging.getLogger("cnnmod")
RunFile = Callable[[Tensor], dict[str, Tensor]]  # images → outputs and selected channels, by name


@dataclass(frozen=True)
class Parity:
    """The agreement of the outputs of a file and its network.

    Attributes:
        largest_error: The largest error of any output, relative to the largest value of the output. For integers and
            booleans, the share of values that differ. Only images with equal selections are compared. The error is
            infinite if a value that differs is not finite, or if the selections differ for all images.
        selection_agreement: The share of the selected channels that are the same. If `config.order` is `"score"`, they
            must also be at the same position. It is 1 without MoD blocks.
        output: The name of the output with the largest error.
        seed: The seed of the input with the largest error.
    """

    largest_error: float
    selection_agreement: float
    output: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The agreement of the classes and selections of a file and its network on real images.

    Attributes:
        images: The number of images compared.
        top1: The share of images with the same highest logit. `None` if the network is not a classifier.
        selection: The share of selected channels that are the same, in any order. It is 1 without MoD blocks.
        selection_in_order: The share of selected channels that are the same and at the same position.
    """

    images: int
    top1: float | None
    selection: float
    selection_in_order: float


def check_agreement(model: nn.Module, run: RunFile, batches: Iterable[Tensor]) -> Agreement:
    """Compare the classes and the selected channels of a file and its network.

    Args:
        model: The network, in evaluation mode.
        run: The file in its runtime.
        batches: Batches of images (N, C, H, W).
    """
    images = same_class = selected_by_both = in_order = selected_channels = 0
    is_classifier = True
    for images_NCHW in batches:
        with torch.inference_mode(), recorded_selection(model) as selected:
            expected = model(images_NCHW)
        outputs = run(images_NCHW)
        images += len(images_NCHW)
        for block, (index_NK,) in selected.items():
            if (file_index := outputs.get(f"{block}{SELECTED}")) is not None:
                file_index_NK = file_index.flatten(1)
                selected_by_both += int((index_NK[:, :, None] == file_index_NK[:, None]).sum())
                in_order += int((index_NK == file_index_NK).sum())
                selected_channels += index_NK.numel()
        is_classifier = is_classifier and isinstance(expected, Tensor) and expected.ndim == 2
        if is_classifier:
            (name,) = named_outputs(expected)
            same_class += int((outputs[name].argmax(1) == expected.argmax(1)).sum())
    return Agreement(
        images=images,
        top1=same_class / images if is_classifier else None,
        selection=selected_by_both / selected_channels if selected_channels else 1.0,
        selection_in_order=in_order / selected_channels if selected_channels else 1.0,
    )


def check_parity(
    model: nn.Module,
    run: RunFile,
    example: Tensor,
    batch_sizes: Sequence[int],
    closest: Callable[[Tensor], Tensor] = lambda images_NCHW: images_NCHW,
) -> Parity:
    """Compare the outputs and the selected channels of a file and its network, on random images and on black images.

    Args:
        model: The network, in evaluation mode.
        run: The file in its runtime.
        example: Images (N, C, H, W). The random images have its mean and standard deviation.
        batch_sizes: The sizes of the batches of random images. The black images are a batch of the last size.
        closest: Rounds random images to images that the file can take.

    Raises:
        ValueError: If the names, types or shapes of the file's outputs differ from the network's, or the network itself
            fails or returns NaN for random images.
    """
    order = {name: block.config.order for name, block in mod_blocks(model).items()}
    device = next(model.parameters(), example).device
    errors: dict[str, list[tuple[float, int]]] = defaultdict(list)  # output → error and seed of each input
    same_channels = selected_channels = 0
    for seed, random_NCHW in _inputs(example, batch_sizes):
        images_NCHW = closest(random_NCHW)
        with torch.inference_mode(), recorded_selection(model) as selected:
            try:
                outputs_of_network = model(images_NCHW.to(device))
            except Exception as error:  # the network can raise anything, for example where it checks its input
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                if seed < 0:
                    logger.info("the network does not accept a black image, so none is compared (%s)", reason)
                    continue
                raise ValueError(
                    "the file cannot be checked: the network fails on random images with the mean and standard "
                    f"deviation of the example ({reason})"
                ) from error
        returned = named_outputs(outputs_of_network)
        expected = {name: value.cpu() for name, value in returned.items()}
        outputs = {name: value.cpu() for name, value in run(images_NCHW).items()}
        same_selection_N = torch.ones(len(images_NCHW), dtype=torch.bool)
        for block, (index_NK,) in selected.items():
            if (file_index := outputs.pop(f"{block}{SELECTED}", None)) is not None:
                file_index_NK = file_index.flatten(1)
                if order[block] == "index":  # files have the selected channels in the order of their scores
                    index_NK, file_index_NK = index_NK.sort(1).values, file_index_NK.sort(1).values
                equal_NK = index_NK == file_index_NK
                same_channels += int(equal_NK.sum())
                selected_channels += equal_NK.numel()
                same_selection_N &= equal_NK.all(1)
        _check_outputs(outputs, expected, seed)
        for name, value in expected.items():
            if (comparable := _comparable(value, same_selection_N)) is not None:
                errors[name].append((_error(outputs[name][comparable], value[comparable]), seed))
            else:
                errors[name] += []
    worst = {name: max(input_errors, default=(math.inf, 0)) for name, input_errors in errors.items()}
    output, (largest_error, largest_seed) = max(worst.items(), key=lambda item: item[1])
    agreement = same_channels / selected_channels if selected_channels else 1.0
    return Parity(largest_error, agreement, output, largest_seed)


def _check_outputs(outputs: dict[str, Tensor], expected: dict[str, Tensor], seed: int) -> None:
    if outputs.keys() != expected.keys():
        raise ValueError(f"the file has the outputs {', '.join(outputs)}, but the network has {', '.join(expected)}")
    for name, value in expected.items():
        output = outputs[name]
        if (output.dtype, output.shape) != (value.dtype, value.shape):
            raise ValueError(
                f"the file's output {name!r} is {output.dtype} {tuple(output.shape)}, but the network's is "
                f"{value.dtype} {tuple(value.shape)}"
            )
        if seed >= 0 and value.isnan().any():
            raise ValueError(
                f"the file cannot be checked: the network itself returns NaN in {name!r} on the input of seed {seed}"
            )


def _comparable(value: Tensor, same_selection_N: Tensor) -> Any:
    """Return an index of the part of an output that belongs to images with equal selections, or `None`."""
    if same_selection_N.all():
        return ...
    is_batch = value.ndim and len(value) == len(same_selection_N)
    return same_selection_N if is_batch and same_selection_N.any() else None


def _error(output: Tensor, expected: Tensor) -> float:
    if not (expected.is_floating_point() or expected.is_complex()):
        return float((output != expected).float().mean()) if expected.numel() else 0.0
    rounding = torch.finfo(expected.dtype).eps if expected.dtype.itemsize == 2 else 0.0
    if rounding:
        output, expected = output.float(), expected.float()
    equal = (output == expected) | (output.isnan() & expected.isnan())
    if equal.all():
        return 0.0  # includes empty outputs and outputs of zeros
    largest = expected[expected.isfinite()].abs().max() if expected.isfinite().any() else 0
    if not (output.isfinite() & expected.isfinite())[~equal].all() or largest == 0:
        return math.inf
    difference = ((output - expected).abs() - rounding * expected.abs())[~equal].max()
    return float(difference.clamp_min(0) / largest)


def _inputs(example: Tensor, batch_sizes: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    std, mean = torch.std_mean(example, correction=0)
    std = torch.where(std > 0, std, 1.0)  # the images must be random for a constant example too
    for seed, count in enumerate(batch_sizes):
        generator = torch.Generator().manual_seed(seed)
        yield seed, torch.randn(count, *example.shape[1:], generator=generator) * std + mean
    yield -1, torch.zeros(batch_sizes[-1], *example.shape[1:])


def with_tied_scores(model: nn.Module) -> nn.Module:
    """Return a copy in which importance scores are equal in groups of channels, to verify tie-breaking.

    The group size does not divide k, so that one group is selected only in part.
    """
    model = copied(model)
    for block in mod_blocks(model).values():
        if block.config.select == "learned":
            channel_C = torch.arange(block.num_candidates)
            size = next(size for size in itertools.count(2) if block.k % size)
            first_C = channel_C // size
            if has_plain_selector(block):  # a form may read the weights without calling the layer
                weight = block.selector.expand.weight.data
                weight.copy_(weight[first_C].clone())
            else:
                block.selector.register_module("expand", _Tied(block.selector.expand, first_C))
    return model


class _Tied(nn.Module):
    """A layer that repeats outputs of another layer. Its output c is the output `first_C[c]` of that layer."""

    first_C: Tensor

    def __init__(self, layer: nn.Module, first_C: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("first_C", first_C)

    def forward(self, hidden_NC: Tensor) -> Tensor:
        return self.layer(hidden_NC).index_select(1, self.first_C)

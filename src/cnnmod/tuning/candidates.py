"""train_candidates: train the MoD blocks of all choices at once to compute what their dense blocks compute."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block
from cnnmod.method.choices import SKIP, Choice
from cnnmod.method.config import MoDConfig
from cnnmod.method.plan import build_mod_blocks
from cnnmod.records.files import write_whole
from cnnmod.records.progress import Progress
from cnnmod.records.tensors import read_tensors
from cnnmod.tuning.space import Space

_LEARNING_RATE = 1e-2  # half of the best rate in benchmarks/candidate_rates.py, as a margin for other networks
Pair = tuple[str, str]  # the name of a block and the label of a choice


class Batches(Protocol):
    """Batches of images and labels that can be read several times, such as a list or a `DataLoader`."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Any: ...


class Candidates:
    """The MoD blocks of all choices of a network.

    Attributes:
        blocks: All dense blocks by name, also those that cannot be MoD blocks.
        layers: The MoD block of each choice, by the name of the block and the label.
    """

    def __init__(self, model: nn.Module, space: Space, example: Tensor) -> None:
        skipped: dict[str, Choice] = {block.name: SKIP for block in space.blocks}
        self.blocks: dict[str, Block] = {
            block.name: block for block, _ in build_mod_blocks(model, skipped, None, example)[1]
        }
        self.layers: dict[Pair, MoDBlock] = {}
        labels = {
            label for block in space.blocks for label, choice in block.choices.items() if isinstance(choice, MoDConfig)
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for label in sorted(labels):
                named: dict[str, Choice] = {
                    block.name: block.choices[label] for block in space.blocks if label in block.choices
                }
                for block, layer in build_mod_blocks(model, named, None, example)[1]:
                    assert isinstance(layer, MoDBlock)
                    self.layers[block.name, label] = layer

    def save(self, path: Path, training: Mapping[str, Any]) -> None:
        """Write the weights of all candidates to a file. `training` says how they were trained, for `load_`."""
        tensors = {
            _key(pair, name): value.detach().clone().contiguous()
            for pair, layer in self.layers.items()
            for name, value in layer.state_dict().items()
        }
        write_whole(path, serialize(tensors, metadata={"cnnmod candidates": json.dumps(dict(training))}))

    def load_(self, path: Path, training: Mapping[str, Any]) -> None:
        """Load the weights of `save`.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If they were trained in another way, such as for a dense network with other weights.
        """
        metadata, tensors = read_tensors(path)
        stored = json.loads(metadata.get("cnnmod candidates", "{}"))
        if stored.get("network") != training["network"]:
            raise ValueError(f"{path} was trained for other weights of the network; use a new folder")
        if stored != training:
            raise ValueError(f"{path} was trained with {stored}, not with {dict(training)}; use a new folder")
        for pair, layer in self.layers.items():
            layer.load_state_dict({name: tensors[_key(pair, name)] for name in layer.state_dict()})


def _key(pair: Pair, name: str) -> str:
    return "|".join((*pair, name))


def train_candidates_(
    model: nn.Module,
    candidates: Candidates,
    images: Batches,
    *,
    passes: int,
    learning_rate: float = _LEARNING_RATE,
    progress: Progress = lambda description, done, total: None,
) -> None:
    """Train all candidates at once. The dense network is not changed.

    The loss of a candidate is the squared error of its output, divided by the squared error of the identity. Dropout is
    seeded: the same images give the same weights.

    Args:
        model: The dense network, in evaluation mode.
        candidates: The candidates.
        images: The training images.
        passes: The number of passes over the images.
        learning_rate: The learning rate of Adam at the start. It falls to zero (cosine).
        progress: Called after each batch.

    Raises:
        FloatingPointError: If a loss is not finite.
    """
    device = next(model.parameters()).device
    for layer in candidates.layers.values():
        layer.to(device).train()
    weights = [weight for layer in candidates.layers.values() for weight in layer.parameters()]
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    total, done = passes * len(images), 0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, total))
    losses: dict[Pair, Tensor] = {}
    names = dict.fromkeys(name for name, _ in candidates.layers)
    hooks = [hook for name in names for hook in _hooks(model, candidates, name, losses)]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)  # dropout, so that a killed training can be repeated
            for _ in range(passes):
                for batch, _ in images:
                    optimizer.zero_grad()
                    with torch.no_grad():
                        model(batch.to(device))
                    optimizer.step()
                    schedule.step()
                    done += 1
                    _check_finite(losses)
                    progress("training all candidates", done, total)
    finally:
        for hook in hooks:
            hook.remove()
    for layer in candidates.layers.values():
        layer.eval()


def _check_finite(losses: Mapping[Pair, Tensor]) -> None:
    for (name, label), loss in losses.items():
        if not loss.isfinite():
            raise FloatingPointError(f"the loss of the candidate {label} of {name} is not finite")


def _hooks(
    model: nn.Module, candidates: Candidates, name: str, losses: dict[Pair, Tensor]
) -> Iterable[torch.utils.hooks.RemovableHandle]:
    """Compute the losses of a block's candidates, and their gradients, when the dense network calls the block."""
    called: dict[str, Any] = {}
    layers = {pair: layer for pair, layer in candidates.layers.items() if pair[0] == name}

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        called["x"], called["args"], called["kwargs"] = args[0].clone(), args[1:], kwargs  # the block may overwrite it

    def after(_: nn.Module, __: Any, target: Tensor) -> None:
        x = called["x"]
        identity = (target - x).square().mean() + 1e-12
        with torch.enable_grad():
            for pair, layer in layers.items():
                output = layer(x, *called["args"], **called["kwargs"])
                loss = (output - target).square().mean() / identity
                loss.backward()
                losses[pair] = loss.detach()

    yield model.get_submodule(name).register_forward_pre_hook(before, with_kwargs=True)
    yield model.get_submodule(candidates.blocks[name].last).register_forward_hook(after)


def trained_candidates(
    model: nn.Module,
    space: Space,
    images: Batches,
    example: Tensor,
    path: str | os.PathLike[str],
    network: str,
    *,
    passes: int,
    progress: Progress = lambda description, done, total: None,
) -> Candidates:
    """Train the candidates and write them to a file, or read them from it.

    Raises:
        ValueError: As `Candidates.load_`.
        FloatingPointError: As `train_candidates_`.
    """
    candidates, path = Candidates(model, space, example), Path(path)
    training = {"network": network, "passes": passes, "learning_rate": _LEARNING_RATE}
    if path.exists():
        candidates.load_(path, training)
    else:
        train_candidates_(model, candidates, images, passes=passes, progress=progress)
        candidates.save(path, training)
    device = next(model.parameters()).device
    for layer in candidates.layers.values():
        layer.to(device).eval()
    return candidates

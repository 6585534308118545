"""restored: after a forward pass the network is what it was, and so is what its code keeps elsewhere."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.method.reach import Reach


@contextmanager
def restored(model: nn.Module, *, weights: bool) -> Iterator[list[nn.Module]]:
    """Put back, afterwards, what a forward pass inside this context changes.

    That is all that can be reached from the model: attributes and registered layers, lists, dictionaries and objects in
    them, the values of tensors and arrays; and torch's, Python's and NumPy's random state. Of what the network's code
    keeps elsewhere (caches in globals, classes, closures and `functools.lru_cache`) only what holds tensors is put
    back, since the rest is other networks' too.

    Args:
        model: Any network or layer.
        weights: Whether the pass may change the values of parameters and buffers.

    Yields:
        All of the model's modules, also those that it keeps in plain lists.
    """
    reach, state = Reach(model), [*model.parameters(), *model.buffers()]
    skipped = set() if weights else set(map(id, state))
    with ExitStack() as after:
        for value in reach.values:
            if id(value) not in skipped and (put_back := _keep(value)):
                after.callback(put_back)
        for put_back in _random_states({tensor.device for tensor in state}):
            after.callback(put_back)
        after.callback(reach.put_back)
        yield reach.modules


def _keep(value: Any) -> Callable[[], object] | None:
    """What gives a tensor, an array or a random generator its present value back."""
    if isinstance(value, Tensor):
        if value.is_meta:
            return None
        alias = value.detach()
        return lambda kept=alias.clone(): _put_back_tensor(value, alias, kept)
    if isinstance(value, torch.Generator):
        return lambda kept=value.get_state(): value.set_state(kept)
    if isinstance(value, random.Random):
        return lambda kept=value.getstate(): value.setstate(kept)
    if hasattr(value, "bit_generator"):  # numpy.random.Generator
        return lambda kept=value.bit_generator.state: setattr(value.bit_generator, "state", kept)
    if hasattr(value, "get_state"):  # numpy.random.RandomState
        return lambda kept=value.get_state(): value.set_state(kept)
    return (lambda kept=value.copy(): value.__setitem__(..., kept)) if value.flags.writeable else None  # numpy.ndarray


@torch.no_grad()
def _put_back_tensor(tensor: Tensor, alias: Tensor, kept: Tensor) -> None:
    if tensor.untyped_storage()._cdata != alias.untyped_storage()._cdata or tensor.shape != alias.shape:
        tensor.data = alias
    with suppress(NotImplementedError, RuntimeError):  # some kinds of tensors cannot be compared
        if torch.equal(alias, kept):
            return
    alias.copy_(kept)


def _random_states(devices: set[torch.device]) -> Iterator[Callable[[], object]]:
    yield lambda state=torch.get_rng_state(): torch.set_rng_state(state)
    yield lambda state=random.getstate(): random.setstate(state)
    if numpy_random := sys.modules.get("numpy.random"):
        yield lambda state=numpy_random.get_state(): numpy_random.set_state(state)
    for device in devices:
        if device.type not in ("cpu", "meta"):
            yield _device_state(torch.get_device_module(device), device)


def _device_state(module: Any, device: torch.device) -> Callable[[], object]:
    if device.type == "mps":
        return lambda state=module.get_rng_state(): module.set_rng_state(state)
    return lambda state=module.get_rng_state(device): module.set_rng_state(state, device)

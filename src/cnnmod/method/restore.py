"""restored: undo all changes that a forward pass makes to a network and to the caches of its code."""

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
    """Restore, at the end of the context, everything that a forward pass inside it changes.

    Restored are all objects that can be reached from the model (attributes, registered layers, lists, dictionaries and
    objects in them, the values of tensors and arrays) and the random state of torch, Python and NumPy. The network's
    code also caches objects in globals, classes, closures and `functools.lru_cache`. Of these, only the caches that
    hold tensors are restored, because other networks use them too.

    Args:
        model: Any network or layer.
        weights: Whether the values of parameters and buffers may change inside the context.

    Yields:
        All of the model's modules, including the ones in plain lists.
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
    """Return a function that restores the present value of a tensor, an array or a random generator."""
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
    with suppress(NotImplementedError, RuntimeError):  # some types of tensors cannot be compared
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

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
    """Restore everything that a forward pass inside the context changes, when the context ends.

    This includes all objects that can be reached from the model (attributes, registered layers, lists, dictionaries and
    objects in them, the values of tensors and arrays) and the random state of torch, Python and NumPy. The code of a
    network can also cache objects in globals, classes, closures and `functools.lru_cache`. These caches are restored
    only if they hold tensors, because other networks use them too.

    Args:
        model: Any network or layer.
        weights: Whether the values of parameters and buffers may change inside the context.

    Yields:
        All of the model's modules, including the ones in plain lists.
    """
    reach, state = Reach(model), [*model.parameters(), *model.buffers()]
    skipped = set() if weights else set(map(id, state))
    with ExitStack() as stack:
        for value in reach.values:
            if id(value) not in skipped and (restore := _restorer(value)):
                stack.callback(restore)
        for restore in _random_states({tensor.device for tensor in state}):
            stack.callback(restore)
        stack.callback(reach.restore)
        yield reach.modules


def _restorer(value: Any) -> Callable[[], object] | None:
    """Return a function that restores the current value of a tensor, an array or a random generator."""
    if isinstance(value, Tensor):
        if value.is_meta:
            return None
        alias = value.detach()
        return lambda saved=alias.clone(): _restore_tensor(value, alias, saved)
    if isinstance(value, torch.Generator):
        return lambda saved=value.get_state(): value.set_state(saved)
    if isinstance(value, random.Random):
        return lambda saved=value.getstate(): value.setstate(saved)
    if hasattr(value, "bit_generator"):  # numpy.random.Generator
        return lambda saved=value.bit_generator.state: setattr(value.bit_generator, "state", saved)
    if hasattr(value, "get_state"):  # numpy.random.RandomState
        return lambda saved=value.get_state(): value.set_state(saved)
    # numpy.ndarray
    return (lambda saved=value.copy(): value.__setitem__(..., saved)) if value.flags.writeable else None


@torch.no_grad()
def _restore_tensor(tensor: Tensor, alias: Tensor, saved: Tensor) -> None:
    if tensor.untyped_storage()._cdata != alias.untyped_storage()._cdata or tensor.shape != alias.shape:
        tensor.data = alias
    with suppress(NotImplementedError, RuntimeError):  # some types of tensors cannot be compared
        if torch.equal(alias, saved):
            return
    alias.copy_(saved)


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

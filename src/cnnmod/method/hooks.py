"""Hooks: which belong to a layer, which are the user's; and the network without the latter."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules import module as nn_module
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_OF_THE_LAYER = (BasePruningMethod, SpectralNorm, WeightNorm)  # they compute the weight before each call
HOOKS = frozenset(name for name in vars(nn.Module()) if "_hooks" in name)
_CALLED = [name for name in HOOKS if name.startswith(("_forward", "_backward"))]
_CALLED_GLOBALLY = [name for name in vars(nn_module) if name.startswith(("_global_forward", "_global_backward"))]


@contextmanager
def without_hooks(modules: Iterable[nn.Module]) -> Iterator[None]:
    """The modules without the hooks of the user's, and without the global ones; hooks added inside are dropped."""
    holders = [(vars(nn_module), _CALLED_GLOBALLY), *((vars(module), _CALLED) for module in modules)]
    places = [(holder, name, holder[name]) for holder, names in holders for name in names if name in holder]
    try:
        for holder, name, hooks in places:
            if hooks:
                kept = ((key, hook) for key, hook in hooks.items() if isinstance(hook, _OF_THE_LAYER))
                holder[name] = OrderedDict(kept)
        yield
    finally:
        for holder, name, hooks in places:
            if holder[name] is hooks:
                hooks.clear()  # it was empty
            holder[name] = hooks

"""without_hooks: remove the user's hooks temporarily, but keep the hooks that compute a layer's weight."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules import module as nn_module
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)  # they compute the layer's weight before each call
HOOKS = frozenset(name for name in vars(nn.Module()) if "_hooks" in name)
_CALLED = [name for name in HOOKS if name.startswith(("_forward", "_backward"))]
_CALLED_GLOBALLY = [name for name in vars(nn_module) if name.startswith(("_global_forward", "_global_backward"))]


@contextmanager
def without_hooks(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Remove the user's hooks from the modules, and the global hooks, inside the context.

    Hooks that are added inside the context are removed at its end.
    """
    holders = [(vars(nn_module), _CALLED_GLOBALLY), *((vars(module), _CALLED) for module in modules)]
    entries = [(holder, name, holder[name]) for holder, names in holders for name in names if name in holder]
    try:
        for holder, name, hooks in entries:
            if hooks:
                kept = ((key, hook) for key, hook in hooks.items() if isinstance(hook, _WEIGHT_HOOKS))
                holder[name] = OrderedDict(kept)
        yield
    finally:
        for holder, name, hooks in entries:
            if holder[name] is hooks:  # it was empty before the context
                hooks.clear()
            holder[name] = hooks

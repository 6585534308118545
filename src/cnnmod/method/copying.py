"""Copy a network, with an error that names an attribute that cannot be copied."""

import copy

import torch
from torch import nn

from cnnmod.records.errors import first_line

_REGISTERED = ("_modules", "_parameters", "_buffers")


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network.

    Raises:
        ValueError: If an attribute cannot be copied. The message names the attribute and a solution.
    """
    try:
        return copy.deepcopy(model)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a foreign object can raise anything; torch raises for non-leaf tensors
        raise ValueError(
            f"{_uncopyable_attribute(model)} cannot be copied: {first_line(error)}. If it is a tensor of a training "
            "step, run the network once under torch.no_grad() or delete the tensor; if it is a pruned weight, call "
            "torch.nn.utils.prune.remove"
        ) from error


def _uncopyable_attribute(model: nn.Module) -> str:
    """Return the name of the first attribute that cannot be copied, or else the name of the model's class."""
    for name, module in model.named_modules():
        attributes = {key: value for key, value in vars(module).items() if key not in _REGISTERED}
        for attribute, value in (attributes | module._parameters | module._buffers).items():
            try:
                copy.deepcopy(value)
            except Exception:  # a foreign object can raise anything
                return f"{name}.{attribute}" if name else attribute
    return type(model).__name__

"""check_unwrapped: refuse wrapped networks. Networks must be converted, saved and lowered before they are wrapped."""

from torch import nn

# The class name of each wrapper, and the attribute with the network. None: the network cannot be unwrapped.
_WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",  # torch.compile
    "AveragedModel": "module",  # torch's moving average of weights
    "ModelEmaV2": "module",  # timm's moving average
    "ModelEmaV3": "module",
    "DeepSpeedEngine": "module",
    "_FabricModule": "module",  # Lightning
    "FullyShardedDataParallel": None,
    "FSDPModule": None,  # fully_shard adds it as a base class of the network
    "DDP": None,  # replicate adds it as a base class too
}


def check_unwrapped(model: nn.Module) -> None:
    """Raise `ValueError` if the model is not a module, is wrapped, or contains a wrapped module.

    Wrappers are, for example, DDP, FSDP, torch.compile and moving averages of weights.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model must be a torch.nn.Module, not {type(model).__name__}")
    for name, module in model.named_modules():
        wrapper = next((base.__name__ for base in type(module).__mro__ if base.__name__ in _WRAPPERS), None)
        if wrapper is not None:
            inner = _WRAPPERS[wrapper]
            path = ".".join(filter(None, ("model", name, inner)))
            hint = f"; the unwrapped module is {path}" if inner else f"; {path} is wrapped" if name else ""
            raise ValueError(f"pass the model before it is wrapped in {wrapper}{hint}")

"""check_bare: reject wrapped networks. Networks are converted, saved and lowered before they are wrapped."""

from torch import nn

# The wrappers' class names, and the attribute that holds the network; None if the network cannot be unwrapped.
_WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",  # torch.compile
    "AveragedModel": "module",  # torch's moving averages of weights
    "ModelEmaV2": "module",  # timm's
    "ModelEmaV3": "module",
    "DeepSpeedEngine": "module",
    "_FabricModule": "module",  # Lightning
    "FullyShardedDataParallel": None,
    "FSDPModule": None,  # fully_shard adds it as a base class of the network
    "DDP": None,  # replicate does the same
}


def check_bare(model: nn.Module) -> None:
    """Raise `ValueError` if the model is not a module, or is or contains a wrapper.

    Wrappers are DDP, FSDP, torch.compile, moving averages of weights and the like.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model must be a torch.nn.Module, not {type(model).__name__}")
    for name, module in model.named_modules():
        wrapper = next((base.__name__ for base in type(module).__mro__ if base.__name__ in _WRAPPERS), None)
        if wrapper is not None:
            inner = _WRAPPERS[wrapper]
            path = ".".join(filter(None, ("model", name, inner)))
            hint = f"; the unwrapped module is {path}" if inner else f"; {path} is wrapped" if name else ""
            raise ValueError(f"the model must be given before it is wrapped in {wrapper}{hint}")

"""check_bare: networks are converted, saved and lowered themselves, not what is wrapped around them."""

from torch import nn

# Each wrapper by the name of its class, and the attribute that the network is in; None where it cannot be had back.
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
    "FSDPModule": None,  # fully_shard: a base class that the network gets
    "DDP": None,  # replicate: likewise
}


def check_bare(model: nn.Module) -> None:
    """Raise `ValueError` for what is no module, or is or holds a wrapper: DDP, FSDP, torch.compile, moving averages."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"this takes a torch.nn.Module, not {type(model).__name__}")
    for name, module in model.named_modules():
        wrapper = next((base.__name__ for base in type(module).__mro__ if base.__name__ in _WRAPPERS), None)
        if wrapper is not None:
            inner = _WRAPPERS[wrapper]
            path = ".".join(filter(None, ("model", name, inner)))
            hint = f"; without it, it is {path}" if inner else f"; {path} is" if name else ""
            raise ValueError(f"this takes the model itself, before it is wrapped in {wrapper}{hint}")

"""Which weights no file is made of: those that are not finite."""

from torch import Tensor, nn


def check_finite(model: nn.Module) -> None:
    """Raise `ValueError` for the first layer with NaN or infinite weights, or on the meta device.

    Of buffers, batch statistics must be finite, and others must not be NaN: a mask may hold infinities.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3))
        >>> _ = nn.init.constant_(model[0].bias, float("nan"))
        >>> check_finite(model)
        Traceback (most recent call last):
        ValueError: Sequential has NaN weights in 0 (bias)
    """
    network = type(model).__name__
    for layer, module in model.named_modules():
        tensors = (*module.named_parameters("", False), *module.named_buffers("", False))
        for name, tensor in tensors:
            where = f"{layer or network} ({name})"
            if tensor.is_meta:
                raise ValueError(f"{network} has no weights in {where}: they are on the meta device")
            if tensor.is_floating_point() and (fault := _fault(name, tensor)) is not None:
                raise ValueError(f"{network} has {fault} weights in {where}")


def _fault(name: str, tensor: Tensor) -> str | None:
    if tensor.isnan().any():
        return "NaN"
    if isinstance(tensor, nn.Parameter) or name.startswith("running_"):
        return "infinite" if tensor.isinf().any() else None
    return None

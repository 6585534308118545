"""Check that the weights of a network are finite before a file is written."""

from torch import Tensor, nn


def check_finite(model: nn.Module) -> None:
    """Check that all weights and batch statistics are finite and are not on the meta device.

    Other buffers may be infinite, such as masks, but not NaN.

    Raises:
        ValueError: If a weight is not finite or is on the meta device. The error names the first such layer.

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
            location = f"{layer or network} ({name})"
            if tensor.is_meta:
                raise ValueError(f"{network} has no weights in {location}: they are on the meta device")
            if tensor.is_floating_point() and (fault := _fault(name, tensor)) is not None:
                raise ValueError(f"{network} has {fault} weights in {location}")


def _fault(name: str, tensor: Tensor) -> str | None:
    if tensor.isnan().any():
        return "NaN"
    if isinstance(tensor, nn.Parameter) or name.startswith("running_"):
        return "infinite" if tensor.isinf().any() else None
    return None

"""trace: observe one forward pass of a network.

The pass runs on the meta device, without values. If the network needs values, it runs on the network's own device.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from cnnmod.method.hooks import without_hooks
from cnnmod.method.passes import DoesNotRunError, Pass, run_on_meta, run_with_values
from cnnmod.method.restore import restored

_T = TypeVar("_T")
logger = logging.getLogger("cnnmod")
_logged: WeakSet[nn.Module] = WeakSet()  # the models whose pass with values was logged


def check_2d(model: nn.Module, example: Tensor | None = None) -> None:
    """Raise `ValueError` if the network has only 1D or 3D convolutions, or if the example is not (N, C, H, W)."""
    layers = [layer for layer in model.modules() if isinstance(layer, _ConvNd)]
    if layers and not any(map(_is_2d, layers)):
        types = " and ".join(sorted({type(layer).__name__ for layer in layers}))
        raise ValueError(f"cnnmod converts 2D convolutional networks; {type(model).__name__} has {types} layers")
    if isinstance(example, Tensor) and example.ndim != 4:
        raise ValueError(f"example must be images (N, C, H, W), not {tuple(example.shape)}")


def example_for(model: nn.Module, size: tuple[int, int] | None = None) -> Tensor:
    """Return one image on the meta device, with the shape and dtype that the model takes.

    The number of channels is the model's `in_chans`, or else that of its first 2D convolution. The dtype is that of the
    first floating-point parameter or buffer.

    Args:
        model: The network.
        size: Height and width. `None` uses the input size of a timm model, or else 224 × 224 pixels.

    Raises:
        ValueError: If the model has no 2D convolution.
    """
    check_2d(model)
    first = next((layer for layer in model.modules() if isinstance(layer, _ConvNd) and _is_2d(layer)), None)
    if first is None:
        raise ValueError(f"{type(model).__name__} has no convolution")
    in_chans = getattr(model, "in_chans", None)
    channels = in_chans if isinstance(in_chans, int) else first.in_channels
    settings = getattr(model, "default_cfg", None) or {}
    height, width = size or settings.get("input_size", (3, 224, 224))[1:]
    return torch.empty(1, channels, height, width, device="meta", dtype=_first_floating(model).dtype)


def meta_forward(model: nn.Module, example: Tensor | None = None) -> Any:
    """Return the model's output in a pass of `trace`: tensors on the meta device, or tensors with values."""
    return trace(model, lambda run: run(), example)


def trace(
    model: nn.Module,
    observe: Callable[[Pass], _T],
    example: Tensor | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
    level: int = logging.INFO,
) -> _T:
    """Observe the model during one forward pass in evaluation mode, without gradients.

    The pass runs on the meta device, which computes shapes without arithmetic. This fails if the network needs values
    or has tensors that are neither parameters nor buffers. The network is then run once on its own device, which is
    logged. A network that behaves differently on the meta device cannot be detected.

    The model is restored after the pass (see `restored`). Its hooks are not called, except the hooks that compute a
    layer's weight: pruning, weight norm and spectral norm.

    Args:
        model: Any network or layer.
        observe: A function that takes `run`, calls it once and returns what it observed. It is called a second time if
            a pass with values is needed.
        example: The input. `None` uses `example_for`. A pass with values uses random values if the example is on the
            meta device.
        args, kwargs: The other arguments of the model.
        level: The logging level for a pass with values, which is logged once for each model.

    Returns:
        The result of `observe`.

    Raises:
        DoesNotRunError: If the model does not run on the example. The message states the reason.
        ValueError: If the example is not a tensor, or if the model takes several inputs or has uninitialized lazy
            layers.
    """
    if not (example is None or isinstance(example, Tensor)):
        raise ValueError(f"example must be a tensor (N, C, H, W) or None, not {type(example).__name__}")
    _check_takes(model, args, kwargs)
    example = example_for(model) if example is None else example
    first = _first_floating(model)
    with isolated(model, weights=False):
        try:
            return observe(run_on_meta(model, (example, args, dict(kwargs))))
        except DoesNotRunError:
            if first.is_meta:
                raise
    _check_has_values(model)
    device = example.device if example.device in {tensor.device for tensor in _state(model)} else first.device
    with isolated(model):
        result = observe(run_with_values(model, (example, args, dict(kwargs)), device))
    if model not in _logged:
        _logged.add(model)
        logger.log(
            level,
            "%s does not run without values; its shapes are from one forward pass on %s",
            type(model).__name__,
            device,
        )
    return result


@contextmanager
def isolated(model: nn.Module, *, weights: bool = True) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients and without the user's hooks, and restore it afterwards.

    Args:
        model: Any network or layer.
        weights: Whether the values of its parameters and buffers may change inside the context.
    """
    with ExitStack() as stack:
        modules = stack.enter_context(restored(model, weights=weights))
        stack.enter_context(without_hooks(modules))
        stack.enter_context(torch.no_grad())
        # Not model.eval(), which some networks override, for example to merge LoRA weights.
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
            module.training = False
        yield


def _is_2d(layer: _ConvNd) -> bool:
    return len(layer.kernel_size) == 2


def _state(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _first_floating(model: nn.Module) -> Tensor:
    """Return the first floating-point parameter or buffer. Its device and dtype are used for the model's input."""
    return next(tensor for tensor in (*_state(model), torch.empty(0)) if tensor.is_floating_point())


def _check_has_values(model: nn.Module) -> None:
    if missing := [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]:
        raise ValueError(
            f"{type(model).__name__} does not run without values, but {missing[0]} is on the meta device; load the "
            "network's weights first"
        )


def _check_takes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise `ValueError` if the model has uninitialized lazy layers or its forward takes several inputs."""
    if lazy := [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]:
        raise ValueError(f"{lazy[0]} has no shape yet; run the network once to initialize its lazy layers")
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # a TorchScript forward has no signature
        return
    try:
        signature.bind(None, *args, **kwargs)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "nothing"
        raise ValueError(
            f"{type(model).__name__}'s forward takes {takes}, but cnnmod calls it with one tensor (N, C, H, W); wrap "
            "the network in a module whose forward takes one tensor and adds the other arguments"
        ) from error

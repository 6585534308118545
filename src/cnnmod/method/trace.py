"""trace: what a network does with an input, from one forward pass on the meta device, on none of the network's memory;
or, where the network asks for values, from a real one."""

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
from cnnmod.method.passes import DoesNotRunError, Run, run_for_real, run_on_meta
from cnnmod.method.restore import restored

_T = TypeVar("_T")
_log = logging.getLogger("cnnmod")
_told: WeakSet[nn.Module] = WeakSet()


def check_2d(model: nn.Module, example: Tensor | None = None) -> None:
    """Raise `ValueError` for a network that has 1D or 3D convolutions and no 2D ones, and for what is no image."""
    layers = [layer for layer in model.modules() if isinstance(layer, _ConvNd)]
    if layers and not any(map(_is_2d, layers)):
        kinds = " and ".join(sorted({type(layer).__name__ for layer in layers}))
        raise ValueError(f"cnnmod converts 2D convolutional networks; {type(model).__name__} has {kinds} layers")
    if isinstance(example, Tensor) and example.ndim != 4:
        raise ValueError(f"example must be images (N, C, H, W), not {tuple(example.shape)}")


def example_for(model: nn.Module) -> Tensor:
    """One image on the meta device: of the size that a timm model states, else 224 pixels square.

    Its channels are what the model states as `in_chans`, else what its first convolution takes; its dtype is that of
    the first floating-point parameter.
    """
    check_2d(model)
    first = next((layer for layer in model.modules() if isinstance(layer, _ConvNd) and _is_2d(layer)), None)
    if first is None:
        raise ValueError(f"{type(model).__name__} has no convolution")
    stated = getattr(model, "in_chans", None)
    channels = stated if isinstance(stated, int) else first.in_channels
    settings = getattr(model, "default_cfg", None) or {}
    height, width = settings.get("input_size", (3, 224, 224))[1:]
    return torch.empty(1, channels, height, width, device="meta", dtype=_home(model).dtype)


def meta_forward(model: nn.Module, example: Tensor | None = None) -> Any:
    """What the model returns in the pass of `trace`: tensors on the meta device, or real ones."""
    return trace(model, lambda run: run(), example)


def trace(
    model: nn.Module,
    observe: Callable[[Run], _T],
    example: Tensor | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
    level: int = logging.INFO,
) -> _T:
    """Watch the model during one forward pass in evaluation mode, without gradients.

    The pass is on the meta device: shapes without arithmetic. Where that fails (the network holds tensors that are
    neither parameters nor buffers, or asks for values), the network is run once on its own device, which is logged.
    A network that asks whether it is on the meta device is not found out.

    The model is afterwards what it was (see `restored`), and its hooks are not called, but those that compute a layer's
    weight: pruning, weight norm, spectral norm.

    Args:
        model: Any network or layer.
        observe: `observe(run)` calls `run` once and returns what it saw. It is called again for the real pass.
        example: Its input; `None` takes `example_for`. A real pass gets these very values, or random ones.
        args, kwargs: What the model takes besides its input.
        level: At which a real pass is logged, once for each model.

    Returns:
        What `observe` returns.

    Raises:
        DoesNotRunError: The model does not run on the example, with the reason.
        ValueError: The example is no tensor; the model takes several inputs; or layers of it have no weights yet.
    """
    if not (example is None or isinstance(example, Tensor)):
        raise ValueError(f"example must be a tensor (N, C, H, W) or None, not {type(example).__name__}")
    _check_takes(model, args, kwargs)
    example = example_for(model) if example is None else example
    home = _home(model)
    with at_rest(model, weights=False):
        try:
            return observe(run_on_meta(model, (example, args, dict(kwargs))))
        except DoesNotRunError:
            if home.is_meta:
                raise
    _check_has_values(model)
    device = example.device if example.device in {tensor.device for tensor in _state(model)} else home.device
    with at_rest(model):
        seen = observe(run_for_real(model, (example, args, dict(kwargs)), device))
    if model not in _told:
        _told.add(model)
        _log.log(
            level,
            "%s does not run without values: its shapes are from one forward pass on %s",
            type(model).__name__,
            device,
        )
    return seen


@contextmanager
def at_rest(model: nn.Module, *, weights: bool = True) -> Iterator[None]:
    """The model in evaluation mode, without gradients and its user's hooks; afterwards it is what it was.

    `weights`: whether its parameters and buffers may change meanwhile.
    """
    with ExitStack() as stack:
        modules = stack.enter_context(restored(model, weights=weights))
        stack.enter_context(without_hooks(modules))
        stack.enter_context(torch.no_grad())
        for module in model.modules():  # not model.eval(), which some networks override: LoRA merges its weights there
            stack.callback(setattr, module, "training", module.training)
            module.training = False
        yield


def _is_2d(layer: _ConvNd) -> bool:
    return len(layer.kernel_size) == 2


def _state(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _home(model: nn.Module) -> Tensor:
    """The tensor that says on which device and in which dtype the model's input is: the first one with fractions."""
    return next(tensor for tensor in (*_state(model), torch.empty(0)) if tensor.is_floating_point())


def _check_has_values(model: nn.Module) -> None:
    if missing := [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]:
        raise ValueError(
            f"{type(model).__name__} does not run without values, and {missing[0]} has none: it is on the meta "
            "device; load the network's weights first"
        )


def _check_takes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise `ValueError` for layers without weights and for a forward of several inputs."""
    if lazy := [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]:
        raise ValueError(f"{lazy[0]} has no shape yet: run the network once, which gives its lazy layers their weights")
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # TorchScript's
        return
    try:
        signature.bind(None, *args, **kwargs)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "nothing"
        raise ValueError(
            f"{type(model).__name__}'s forward takes {takes}, and cnnmod calls it with one tensor (N, C, H, W): wrap "
            "the network in a module whose forward takes one tensor and adds the rest"
        ) from error

"""A network's shapes without its arithmetic: one forward pass on the meta device, on none of the network's memory."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, layer_norm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

ForwardHook = Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any], Any], None]
_TORCHS_OWN = frozenset(vars(nn.Module()))
_tracing: set[int] = set()


def example_for(model: nn.Module) -> Tensor:
    """One image on the meta device: of the size that a timm model states, else 224 pixels square.

    Its channels are what the model states as `in_chans`, else what its first convolution takes.
    """
    first = next((module for module in model.modules() if isinstance(module, _ConvNd)), None)
    if first is None:
        raise ValueError(f"{type(model).__name__} has no convolution")
    stated = getattr(model, "in_chans", None)
    channels = stated if isinstance(stated, int) else first.in_channels
    settings = getattr(model, "default_cfg", None) or {}
    height, width = settings.get("input_size", (3, 224, 224))[1:]
    return torch.empty(1, channels, height, width, device="meta", dtype=first.weight.dtype)


def meta_forward(
    model: nn.Module,
    example: Tensor | None = None,
    hook: ForwardHook | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Run the model on the meta device in evaluation mode.

    Args:
        model: Any network or layer.
        example: Its input; `None` takes `example_for`.
        hook: `hook(name, module, args, kwargs, output)` follows each call of a module.
        args, kwargs: What the model takes besides its input.

    The model's parameters, buffers, training mode and hooks are afterwards what they were.

    Raises:
        ValueError: The model does not run on the example, with the reason; or one of its own hooks asks for this.
    """
    if id(model) in _tracing:
        raise ValueError(f"{type(model).__name__} is being run: do not call cnnmod from a hook of the model itself")
    if not (example is None or isinstance(example, Tensor)):
        raise ValueError(f"example must be a tensor (N, C, H, W) or None, not {type(example).__name__}")
    example = example_for(model) if example is None else example.to("meta")
    state = {
        f"{prefix}.{name}" if prefix else name: tensor.to("meta")
        for prefix, module in model.named_modules()  # each module once, or swapping it twice would lose its tensors
        for name, tensor in (*module.named_parameters("", False, False), *module.named_buffers("", False, False))
    }
    with (
        _same_attributes(model),
        _evaluating(model),
        _hooked(model, hook),
        torch.no_grad(),
        _QuickNorms(),
        _OneOfMany(),
    ):
        _tracing.add(id(model))
        try:
            return torch.func.functional_call(model, state, (example, *args), dict(kwargs), tie_weights=False)
        except Exception as error:  # whatever a foreign forward raises
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"{type(model).__name__} does not run on an example of shape {tuple(example.shape)}: {reason}"
            ) from error
        finally:
            _tracing.discard(id(model))


class _QuickNorms(TorchFunctionMode):
    """Norms by their shape alone: torch takes them apart in Python, which is half of a network's time here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is batch_norm and not kwargs.get("training", args[5] if len(args) > 5 else False):
            fits = args[1] is not None and args[1].numel() == args[0].shape[1]
        else:
            fits = func is layer_norm and tuple(args[1]) == tuple(args[0].shape[-len(args[1]) :])
        return torch.empty_like(args[0]) if fits and args[0].is_meta else func(*args, **kwargs)


class _OneOfMany(TorchDispatchMode):
    """Where how much there is depends on values, there is one: a detector's forward goes on with one box."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (args and isinstance(args[0], Tensor) and args[0].is_meta):
            return func(*args, **(kwargs or {}))
        if func is torch.ops.aten.nonzero.default:
            return _one_index(args[0], args[0].ndim)
        if func is torch.ops.aten.index.Tensor:
            places: list[Tensor | None] = []
            for index in args[1]:
                if index is not None and index.dtype == torch.bool:
                    places += [_one_index(index)] * index.ndim
                else:
                    places.append(index)
            return func(args[0], places)
        if str(func) == "torchvision.nms.default":
            return _one_index(args[0])
        return func(*args, **(kwargs or {}))


def _one_index(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty((1, *shape), dtype=torch.long)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    for module in training:  # not model.eval(), which some networks override: LoRA merges its weights there
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _same_attributes(model: nn.Module) -> Iterator[None]:
    """Undo what a forward keeps in attributes: grids and anchors made for an image, which would be meta tensors."""
    kept = [
        (module, {name: (value, _content(value)) for name, value in vars(module).items() if name not in _TORCHS_OWN})
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, attributes in kept:
            for name in [name for name in vars(module) if name not in attributes and name not in _TORCHS_OWN]:
                delattr(module, name)
            for name, (value, content) in attributes.items():
                vars(module)[name] = value
                if isinstance(value, list):
                    value[:] = content
                elif isinstance(value, (dict, set)):
                    value.clear()
                    value.update(content)


def _content(value: object) -> Any:
    return copy.copy(value) if isinstance(value, (list, dict, set)) else None


@contextmanager
def _hooked(model: nn.Module, hook: ForwardHook | None) -> Iterator[None]:
    handles: list[RemovableHandle] = []
    try:
        if hook is not None:
            for name, module in model.named_modules():
                handles.append(module.register_forward_hook(_bind(hook, name), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _bind(hook: ForwardHook, name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
    return lambda module, args, kwargs, output: hook(name, module, args, kwargs, output)

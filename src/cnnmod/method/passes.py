"""run_on_meta, run_with_values: return one forward pass, without or with values, as a function that accepts a hook."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

from cnnmod.method.meta import OneElementResults, SkipNorms

ForwardHook = Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any], Any], None]
Inputs = tuple[Tensor, tuple[Any, ...], dict[str, Any]]  # the example and the other arguments
_running: set[int] = set()  # the ids of the models that are running


class DoesNotRunError(ValueError):
    """A network does not run on an example."""


class Pass(Protocol):
    """One forward pass. `hook(name, module, args, kwargs, output)` is called after each call of a module."""

    def __call__(self, hook: ForwardHook | None = None) -> Any: ...


def run_on_meta(model: nn.Module, inputs: Inputs) -> Pass:
    """Return a pass on the meta device. It leaves the model's parameters and buffers on the meta device."""

    def start() -> Any:
        copies = {id(tensor): _on_meta(tensor) for tensor in (*model.parameters(), *model.buffers())}
        for module in model.modules():
            for state in (vars(module)["_parameters"], vars(module)["_buffers"]):
                state.update({name: copies[id(tensor)] for name, tensor in state.items() if tensor is not None})
        example, args, kwargs = tree_map_only(Tensor, _on_meta, inputs)
        with SkipNorms(), OneElementResults():
            return model(example, *args, **kwargs)

    return _run(model, inputs[0], torch.device("meta"), start)


def run_with_values(model: nn.Module, inputs: Inputs, device: torch.device) -> Pass:
    """Return a pass with values on this device. Inputs on the meta device are replaced by random values."""

    def start() -> Any:
        example, args, kwargs = tree_map_only(Tensor, lambda tensor: _with_values(tensor, device), inputs)
        example = example.to(device)
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # attention then runs the same operators as on the meta device
        try:
            with sdpa_kernel(SDPBackend.MATH):
                return model(example, *args, **kwargs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)

    return _run(model, inputs[0], device, start)


def _run(model: nn.Module, example: Tensor, device: torch.device, start: Callable[[], Any]) -> Pass:
    name = type(model).__name__

    def run(hook: ForwardHook | None = None) -> Any:
        if id(model) in _running:
            raise ValueError(f"{name} is already running; do not call cnnmod from the model's own forward")
        raised: list[Exception] = []
        if hook is not None:
            for path, module in model.named_modules():
                # `isolated` removes the hook.
                module.register_forward_hook(_bind(hook, path, raised), with_kwargs=True)
        _running.add(id(model))
        try:
            return start()
        except Exception as error:  # the forward and the modules of another library may raise anything
            if error in raised:  # errors of the hook are not changed
                raise
            shape = tuple(example.shape)
            raise DoesNotRunError(
                f"{name} does not run on an example of shape {shape} on {device}: {_reason(error)}"
            ) from error
        finally:
            _running.discard(id(model))

    return run


def _bind(hook: ForwardHook, name: str, raised: list[Exception]) -> Callable[..., None]:
    """Return a forward hook that calls `hook` with the module's name and adds the exceptions of `hook` to `raised`."""

    def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        try:
            hook(name, module, args, kwargs, output)
        except Exception as error:  # recorded to distinguish it from an error of the forward pass
            raised.append(error)
            raise

    return call


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if not text or isinstance(error, LookupError):  # the text of a KeyError is only the key
        return f"{type(error).__name__} {text}".strip()
    return text.splitlines()[0]


def _on_meta(tensor: Tensor) -> Tensor:
    copy = tensor.detach().to("meta")
    return nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


def _with_values(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy the tensor. A tensor on the meta device is replaced by a tensor on `device` with fixed random values."""
    if not tensor.is_meta:
        return tensor.detach().clone()
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor, device=device)
    values = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0))
    return torch.empty_like(tensor, device=device).copy_(values)

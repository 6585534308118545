"""run_on_meta, run_for_real: one forward pass, without values or with them, as a function that can be watched."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

from cnnmod.method.meta import OneOfMany, QuickNorms

ForwardHook = Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any], Any], None]
Given = tuple[Tensor, tuple[Any, ...], dict[str, Any]]  # a model's input, and what it takes besides
_running: set[int] = set()


class DoesNotRunError(ValueError):
    """A network does not run on an example."""


class Run(Protocol):
    """One forward pass; `hook(name, module, args, kwargs, output)` follows each call of a module."""

    def __call__(self, hook: ForwardHook | None = None) -> Any: ...


def run_on_meta(model: nn.Module, given: Given) -> Run:
    """A pass for the shapes alone. It leaves the model's parameters and buffers on the meta device."""

    def start() -> Any:
        copies = {id(tensor): _on_meta(tensor) for tensor in (*model.parameters(), *model.buffers())}
        for module in model.modules():
            for held in (vars(module)["_parameters"], vars(module)["_buffers"]):
                held.update({name: copies[id(tensor)] for name, tensor in held.items() if tensor is not None})
        example, args, kwargs = tree_map_only(Tensor, _on_meta, given)
        with QuickNorms(), OneOfMany():
            return model(example, *args, **kwargs)

    return _run(model, given[0], torch.device("meta"), start)


def run_for_real(model: nn.Module, given: Given, device: torch.device) -> Run:
    """A pass with values, on this device; what is given on the meta device gets random ones."""

    def start() -> Any:
        example, args, kwargs = tree_map_only(Tensor, lambda tensor: _with_values(tensor, device), given)
        example = example.to(device)
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # without fused attention operators are those of the meta device
        try:
            with sdpa_kernel(SDPBackend.MATH):
                return model(example, *args, **kwargs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)

    return _run(model, given[0], device, start)


def _run(model: nn.Module, example: Tensor, device: torch.device, start: Callable[[], Any]) -> Run:
    name = type(model).__name__

    def run(hook: ForwardHook | None = None) -> Any:
        if id(model) in _running:
            raise ValueError(f"{name} is being run: do not call cnnmod from the model's own forward")
        raised: list[Exception] = []
        if hook is not None:
            for path, module in model.named_modules():
                module.register_forward_hook(_bind(hook, path, raised), with_kwargs=True)  # `at_rest` drops it
        _running.add(id(model))
        try:
            return start()
        except Exception as error:  # whatever a foreign forward raises
            if error in raised:
                raise
            shape = tuple(example.shape)
            raise DoesNotRunError(
                f"{name} does not run on an example of shape {shape} on {device}: {_reason(error)}"
            ) from error
        finally:
            _running.discard(id(model))

    return run


def _bind(hook: ForwardHook, name: str, raised: list[Exception]) -> Callable[..., None]:
    def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        try:
            hook(name, module, args, kwargs, output)
        except Exception as error:
            raised.append(error)
            raise

    return call


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if not text or isinstance(error, LookupError):  # of which the text is a bare key
        return f"{type(error).__name__} {text}".strip()
    return text.splitlines()[0]


def _on_meta(tensor: Tensor) -> Tensor:
    copy = tensor.detach().to("meta")
    return nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


def _with_values(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy; of a tensor on the meta device one on this device with random values, the same each time."""
    if not tensor.is_meta:
        return tensor.detach().clone()
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor, device=device)
    values = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0))
    return torch.empty_like(tensor, device=device).copy_(values)

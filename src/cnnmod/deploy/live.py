"""Check whether a form may compute layers from their weights, without calling the layers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_hooks

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.selector import ChannelSelector


class DirectLayers:
    """Layers that a form computes from their weights, without calling them.

    Users can add hooks and replace layers at any time, so a form checks before each forward pass whether the layers are
    unchanged. The check compares the dictionaries in which torch stores hooks and children. It takes about two
    microseconds. The dictionaries are shared with the layers, including in a deep copy and after unpickling.

    Args:
        form: The form.
        names: The names of its layers. Modules inside of them are included.
    """

    def __init__(self, form: nn.Module, *names: str) -> None:
        inside = [inner for name in names for inner in form.get_submodule(name).modules()]
        self._hooks = [hooks for layer in inside for hooks in (layer._forward_hooks, layer._forward_pre_hooks)]
        self._children = [layer._modules for layer in inside]
        self._original_children = [dict(children) for children in self._children]
        self._inside, self._attributes = inside, [*map(len, map(vars, inside))]
        self._has_own_forward = any("forward" in vars(layer) for layer in inside)
        self._convolutions = [layer for layer in inside if isinstance(layer, nn.Conv2d)]
        self._settings = [*map(_settings, self._convolutions)]
        self._of_form, self._names = form._modules, names
        self._layers = [form._modules[name] for name in names]

    def are_unchanged(self) -> bool:
        """Return whether no layer has a hook or a forward of its own, is replaced, or has new settings."""
        return (
            not self._has_own_forward
            and self._children == self._original_children
            and [self._of_form.get(name) for name in self._names] == self._layers
            and [*map(len, map(vars, self._inside))] == self._attributes
            and [*map(_settings, self._convolutions)] == self._settings
            and not any(self._hooks)
            and not has_global_hook()
        )


def has_global_hook() -> bool:
    """Return whether a hook of all modules exists, as `torch.nn.modules.module.register_module_forward_hook` adds."""
    return bool(
        torch_hooks._global_forward_hooks
        or torch_hooks._global_forward_pre_hooks
        or torch_hooks._global_backward_hooks
        or torch_hooks._global_backward_pre_hooks
    )


def _settings(conv: nn.Conv2d) -> tuple[object, ...]:
    return conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode


def is_plain(layer: nn.Module) -> bool:
    """Return whether calling the layer runs the forward of its class and nothing else."""
    return not (layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))


def has_plain_selector(block: MoDBlock) -> bool:
    """Return whether the channel selector has only two weights: no hook, parametrization, bias or other layer."""
    selector = block._modules.get("selector")
    return (
        type(selector) is ChannelSelector
        and is_plain(selector)
        and [*selector._modules] == ["reduce", "expand"]
        and all(type(layer) is nn.Linear and is_plain(layer) for layer in selector.children())
        and selector_weights(block) is not None
    )


def selector_weights(block: MoDBlock) -> tuple[Tensor, Tensor] | None:
    """Return the current weights of the channel selector's layers, or `None` if they are not two plain tensors."""
    layers: Any = block._modules["selector"]
    reduce, expand = (layers._modules[name]._parameters for name in ("reduce", "expand"))
    weights = reduce.get("weight"), expand.get("weight")
    if reduce.get("bias") is None and expand.get("bias") is None and all(map(is_plain_tensor, weights)):
        return weights
    return None


def is_plain_tensor(value: object) -> bool:
    """Return whether the value is a strided tensor or parameter of torch's own class. A quantized tensor is not."""
    return type(value) in (nn.Parameter, Tensor) and value.layout is torch.strided  # pyright: ignore[reportAttributeAccessIssue]  type() does not narrow


def is_dense(value: Tensor) -> bool:
    """Return whether the value is contiguous in its memory, channels first or channels last."""
    return value.is_contiguous() or value.is_contiguous(memory_format=torch.channels_last)

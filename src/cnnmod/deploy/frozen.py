"""Find changes of a network after it was recorded as a graph, which the graph would not notice."""

from typing import Any

from torch import Tensor, nn

from cnnmod.deploy.live import has_global_hook, is_plain_tensor


class Frozen:
    """The parts of a network that a recorded graph depends on.

    A graph reads each tensor at the address that it had when it was recorded. It reads weights that are changed in
    place, but not weights that are moved or replaced. It does not run Python. `Frozen` keeps the recorded tensors
    alive, so that a graph never reads memory that was freed.

    Plain attributes of a layer are checked if they are tensors.

    Args:
        network: The network, after it was recorded.

    Examples:
        >>> network = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> frozen = Frozen(network)
        >>> _ = network[0].weight.data.zero_()
        >>> frozen.change()
        >>> network[0].weight.data = network[0].weight.data.clone()
        >>> frozen.change()
        '0.weight was moved or replaced'
    """

    def __init__(self, network: nn.Module) -> None:
        named = dict(network.named_modules())
        self._names, self._layers = list(named), list(named.values())
        self._children = [layer._modules for layer in self._layers]
        self._original_children = [dict(children) for children in self._children]
        self._hooks = [hooks for layer in self._layers for hooks in (layer._forward_hooks, layer._forward_pre_hooks)]
        self._original_hooks = [*map(len, self._hooks)]
        self._training = [layer.training for layer in self._layers]
        self._global_hooks = bool(has_global_hook())
        self._places: list[tuple[dict[str, Any], str]] = []
        self._paths: list[str] = []
        for path, layer in named.items():
            for values in (layer._parameters, layer._buffers, vars(layer)):
                for name, value in values.items():
                    if isinstance(value, Tensor):
                        self._places.append((values, name))
                        self._paths.append(f"{path}.{name}" if path else name)
        self._alive = [values[name].detach() for values, name in self._places]
        self._addresses = self._read_addresses()

    def change(self) -> str | None:
        """Return the first change, or `None`."""
        if self._children != self._original_children:
            changed = map(dict.__ne__, self._children, self._original_children)
            return f"a layer of {self._name(list(changed).index(True))} was replaced, added or removed"
        if (addresses := self._read_addresses()) != self._addresses:
            changed = [ours != theirs for ours, theirs in zip(addresses, self._addresses, strict=True)]
            return f"{self._paths[changed.index(True)]} was moved or replaced"
        if (hooks := [*map(len, self._hooks)]) != self._original_hooks:
            changed = [ours != theirs for ours, theirs in zip(hooks, self._original_hooks, strict=True)]
            return f"a hook of {self._name(changed.index(True) // 2)} was added or removed"
        if (training := [layer.training for layer in self._layers]) != self._training:
            changed = [ours != theirs for ours, theirs in zip(training, self._training, strict=True)]
            return f"the mode (training or evaluation) of {self._name(changed.index(True))} was changed"
        if bool(has_global_hook()) != self._global_hooks:
            return "a hook of all layers was added or removed"
        return None

    def _name(self, index: int) -> str:
        return self._names[index] or "the network"

    def _read_addresses(self) -> list[int]:
        return [_address(values.get(name)) for values, name in self._places]


def _address(value: Any) -> int:
    """Return the address of the values, or of the object if it has no address or several."""
    return value.data_ptr() if is_plain_tensor(value) else id(value)

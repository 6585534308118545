"""What happens to a network's tensors between its layers: what may be folded, what may be overwritten."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.trace import meta_forward


@dataclass
class Flow:
    """Attributes:
    conv_norms: Convolution → batch norm, by name, where nothing else reads the convolution's output.
    overwritable: MoD blocks whose input nothing reads after them.
    """

    conv_norms: dict[str, str] = field(default_factory=dict)
    overwritable: set[str] = field(default_factory=set)


def trace_flow(model: nn.Module, example: Tensor | None = None) -> Flow:
    """Run the model once on the meta device and see who reads what."""
    reads = _Reads()
    calls: Counter[str] = Counter()
    producers: dict[int, str] = {}
    pairs: list[tuple[str, str, Tensor]] = []
    entered: dict[str, tuple[Tensor, int]] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[name] += 1
        if type(layer) is nn.Conv2d:
            producers[id(output)] = name
            reads.keep.append(output)
        elif isinstance(layer, nn.BatchNorm2d) and id(inputs[0]) in producers:
            pairs.append((producers[id(inputs[0])], name, inputs[0]))
        elif isinstance(layer, MoDBlock):
            entered[name] = (inputs[0], reads.count[id(inputs[0])])

    with reads:
        outputs = meta_forward(model, example, note)
    returned = {id(leaf) for leaf in tree_leaves(outputs)}
    return Flow(
        {
            conv: norm
            for conv, norm, between in pairs
            if reads.count[id(between)] == 1 and calls[conv] == calls[norm] == 1 and id(between) not in returned
        },
        {
            name
            for name, (x, count) in entered.items()
            if reads.count[id(x)] == count and id(x) not in returned and calls[name] == 1
        },
    )


class _Reads(TorchFunctionMode):
    """Counts, for every tensor, the operators that read it."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.keep: list[object] = []  # while a tensor lives, its id is its own

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # not .shape or .dim()
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.count.update(map(id, read))
            self.keep += read
        return result

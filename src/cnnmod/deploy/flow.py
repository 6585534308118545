"""What happens to a network's tensors between its layers: what may be folded, what may be overwritten."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.hooks import is_hooked
from cnnmod.method.passes import Run
from cnnmod.method.trace import trace


@dataclass(frozen=True)
class Flow:
    """What a network's layers may do.

    Attributes:
        conv_norms: Convolution → batch norm, by name, where nothing else reads the convolution's output.
        overwritable: MoD blocks whose input nobody can read after them.
    """

    conv_norms: dict[str, str]
    overwritable: set[str]


def trace_flow(model: nn.Module, example: Tensor | None = None) -> Flow:
    """Run the model once (see `trace`) and see who reads what.

    Memory is followed, not tensors, so that views count. What is still there when the network has returned was
    returned or kept, and may be read by anybody; so may what a hook sees, which is not called here.
    """
    return trace(model, partial(_observe, {name for name, layer in model.named_modules() if is_hooked(layer)}), example)


def _observe(hooked: set[str], run: Run) -> Flow:
    reads = _Reads()
    calls: Counter[str] = Counter()
    producers: dict[StorageWeakRef, str] = {}
    between: list[tuple[str, str, StorageWeakRef]] = []
    entered: dict[str, tuple[StorageWeakRef, int]] = {}
    shown: set[StorageWeakRef] = set()
    flows: list[Flow] = []

    def note(name: str, layer: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls[name] += 1
        if name in hooked:
            shown.update(_memory(leaf) for leaf in tree_leaves((inputs, kwargs, output)) if isinstance(leaf, Tensor))
        if not name:
            flows.append(at_the_end(_memory(inputs[0])))
        elif type(layer) is nn.Conv2d:
            producers[_memory(output)] = name
        elif isinstance(layer, nn.BatchNorm2d) and (read := _memory(inputs[0])) in producers:
            between.append((producers[read], name, read))
        elif isinstance(layer, MoDBlock):
            entered[name] = (_memory(inputs[0]), reads.count[_memory(inputs[0])])

    def at_the_end(images: StorageWeakRef) -> Flow:
        """What can be said while the network's outputs, and what it keeps in attributes, are still there."""
        return Flow(
            {
                conv: norm
                for conv, norm, memory in between
                if reads.count[memory] == 1
                and calls[conv] == calls[norm] == 1
                and memory.expired()
                and memory not in shown
            },
            {
                name
                for name, (memory, before) in entered.items()
                if reads.count[memory] == before
                and calls[name] == 1
                and memory.expired()
                and memory not in {images, *shown}
            },
        )

    with reads:
        run(note)
    return flows[0]


class _Reads(TorchFunctionMode):
    """Counts the operators that read each tensor's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[StorageWeakRef] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # not .shape or .dim()
            self.count.update(_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return result


def _memory(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())

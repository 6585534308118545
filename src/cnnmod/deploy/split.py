"""A module's feature map as two tensors in an ONNX graph, so that MoD blocks touch their candidates alone.

With `candidates`, a MoD block reads and changes the first channels only. As a slice of the feature map these would have
to be turned into another layout and back, and the sum would write all of the map. So where a module's map is made of
convolutions, sums and pointwise operators, the convolutions that make it are cut in two by their outputs, those that
read it by their inputs, and the rest of the map never meets a MoD block.
"""

from typing import Any

import numpy as np

_POINTWISE = ("Relu", "Clip", "MaxPool", "Add")
_BLOCK = 16  # channels that ONNX Runtime keeps together


def split_candidates_(model: Any) -> int:
    """Cut every feature map in two whose candidates are sliced off it.

    Args:
        model: `onnx_ir`'s model of a network, changed in place.

    Returns:
        How many feature maps that MoD blocks read are cut.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    wanted: dict[Any, int] = {}
    for node in model.graph:
        if (size := _first_channels(node)) is not None:
            wanted[node.inputs[0]] = max(size, wanted.get(node.inputs[0], 0))
    sizes: dict[Any, int] = {}  # each value that is cut → how many of its channels are candidates
    for value, size in wanted.items():
        if value not in sizes and (same := _same_map(value, size, wanted)) is not None:
            sizes.update(dict.fromkeys(same, size))
    if sizes:
        _Cut(model.graph, sizes).run()
        RemoveUnusedNodesPass()(model)
    return sum(value in sizes for value in wanted)


def _first_channels(node: Any) -> int | None:
    """n, if the node is a slice of the first n channels."""
    if node.op_type != "Slice" or any(one is None or one.const_value is None for one in node.inputs[1:]):
        return None
    starts, ends, axes, *steps = (one.const_value.numpy().tolist() for one in node.inputs[1:])
    return ends[0] if (starts, axes) == ([0], [1]) and steps in ([], [[1]]) else None


def _same_map(value: Any, size: int, wanted: dict[Any, int]) -> set[Any] | None:
    """All values that must be cut with this one; `None` if one cannot be."""
    found: set[Any] = set()
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if value in found:
            continue
        found.add(value)
        node = value.producer()
        channels = value.shape[1] if value.shape is not None and len(value.shape) == 4 else None
        if node is None or not isinstance(channels, int) or channels % _BLOCK or size % _BLOCK or size >= channels:
            return None
        if wanted.get(value, size) != size:
            return None
        if _is_pointwise(node):
            waiting += [one for one in node.inputs if one.const_value is None]
        elif not _is_plain_convolution(node):
            return None
        waiting += [use.node.outputs[0] for use in value.uses() if _is_pointwise(use.node)]
    return found


def _is_pointwise(node: Any) -> bool:
    """Whether a node computes each channel from the same channel."""
    constants = [one for one in node.inputs if one is not None and one.const_value is not None]
    scalar = all(one.const_value.size == 1 for one in constants)
    return node.op_type in _POINTWISE and scalar and None not in node.inputs and len(node.outputs) == 1


def _is_plain_convolution(node: Any) -> bool:
    if node.op_type != "Conv" or node.attributes.get_int("group", 1) != 1:
        return False
    return all(one.const_value is not None for one in node.inputs[1:])


class _Cut:
    """Replaces, node by node, what makes or reads the values that are cut."""

    def __init__(self, graph: Any, sizes: dict[Any, int]) -> None:
        self.graph, self.sizes = graph, sizes
        self.parts: dict[Any, tuple[Any, Any]] = {}  # candidates and the rest; None for zeros
        self.before: Any = None  # the node that new ones go before; None for the end

    def run(self) -> None:
        for node in list(self.graph):
            self.before = node
            output = node.outputs[0]
            if output in self.sizes:
                self.parts[output] = self._made(node, self.sizes[output])
            elif _first_channels(node) is not None and node.inputs[0] in self.parts:
                candidates, _ = self.parts[node.inputs[0]]
                if _first_channels(node) == self.sizes[node.inputs[0]]:
                    output.replace_all_uses_with(candidates)
                else:
                    node.replace_input_with(0, candidates)
            elif _is_plain_convolution(node) and node.inputs[0] in self.parts:
                output.replace_all_uses_with(self._convolution(node, slice(None)))
            else:
                for place, value in enumerate(node.inputs):
                    if value in self.parts:
                        node.replace_input_with(place, self._whole(value))
        self.before = None
        for place, value in enumerate(self.graph.outputs):
            if value in self.parts:
                name, value.name = value.name, f"{value.name}.uncut"
                self.graph.outputs[place] = self._whole(value)
                self.graph.outputs[place].name = name

    def _whole(self, value: Any) -> Any:
        import onnx_ir

        return self._node("Concat", self.parts[value], [onnx_ir.AttrInt64("axis", 1)], value, value.shape[1])

    def _made(self, node: Any, size: int) -> tuple[Any, Any]:
        if node.op_type == "Conv":
            weights = [one.const_value.numpy() for one in node.inputs[1:]]
            adds_to_candidates_only = weights[0][:size].any() and not any(weight[size:].any() for weight in weights)
            rest = None if adds_to_candidates_only else self._convolution(node, slice(size, None))
            return self._convolution(node, slice(size)), rest
        made = []
        for part in (0, 1):
            inputs = [self.parts[one][part] if one in self.parts else one for one in node.inputs]
            if node.op_type == "Add" and None in inputs:
                made.append(next(one for one in inputs if one is not None))
            else:
                channels = next(one.shape[1] for one in inputs if one.const_value is None)
                made.append(self._node(node.op_type, inputs, node.attributes.values(), node.outputs[0], channels))
        return made[0], made[1]

    def _convolution(self, node: Any, outputs: slice) -> Any:
        """These outputs of a convolution, whose input may be cut."""
        x, weight, *bias = node.inputs
        kernel = weight.const_value.numpy()[outputs]
        biases = [self._constant(one.const_value.numpy()[outputs]) for one in bias]
        attributes, like, channels = node.attributes.values(), node.outputs[0], len(kernel)
        if x not in self.parts:
            return self._node("Conv", [x, self._constant(kernel), *biases], attributes, like, channels)
        size = self.sizes[x]
        candidates, rest = self.parts[x]
        first = self._node("Conv", [candidates, self._constant(kernel[:, :size])], attributes, like, channels)
        second = self._node("Conv", [rest, self._constant(kernel[:, size:]), *biases], attributes, like, channels)
        return self._node("Add", [first, second], [], like, channels)

    def _node(self, op_type: str, inputs: Any, attributes: Any, like: Any, channels: int) -> Any:
        """A new node's output, of another's shape but for the channels."""
        import onnx_ir

        node = onnx_ir.Node("", op_type, inputs, attributes)
        node.outputs[0].type = like.type
        node.outputs[0].shape = onnx_ir.Shape([like.shape[0], channels, *like.shape[2:]])
        if self.before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.before, node)
        return node.outputs[0]

    def _constant(self, array: np.ndarray) -> Any:
        import onnx_ir

        name = f"cut_{len(self.graph.initializers)}"
        value = onnx_ir.Value(name=name, const_value=onnx_ir.tensor(np.ascontiguousarray(array), name=name))
        value.dtype, value.shape = onnx_ir.DataType.FLOAT, onnx_ir.Shape(array.shape)
        self.graph.register_initializer(value)
        return value

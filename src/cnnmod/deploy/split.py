"""Split a module's feature map into two tensors in an ONNX graph, so that MoD blocks access only their candidates.

With `candidates`, a MoD block reads and changes only the first channels of a feature map. If these channels were a
slice, the runtime would convert them to another layout and back, and the sum would write the whole map. A map can be
split if only convolutions, sums and pointwise operators compute it. Convolutions that write the map are split along
their outputs, and convolutions that read it along their inputs. The MoD blocks then do not access the rest of the map.
"""

from typing import Any

import numpy as np

_POINTWISE = ("Relu", "Clip", "MaxPool", "Add")
_BLOCK = 16  # ONNX Runtime stores channels in blocks of this size


def split_candidates_(model: Any) -> int:
    """Split each feature map from which candidates are sliced.

    Args:
        model: The network as a model of `onnx_ir`. It is changed in place.

    Returns:
        The number of split feature maps that MoD blocks read.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    num_candidates: dict[Any, int] = {}  # sliced value → its number of candidates
    for node in model.graph:
        if (size := _first_channels(node)) is not None:
            num_candidates[node.inputs[0]] = max(size, num_candidates.get(node.inputs[0], 0))
    sizes: dict[Any, int] = {}  # value to split → its number of candidates
    for value, size in num_candidates.items():
        if value not in sizes and (values := _same_map(value, size, num_candidates)) is not None:
            sizes.update(dict.fromkeys(values, size))
    if sizes:
        _Splitter(model.graph, sizes).run()
        RemoveUnusedNodesPass()(model)
    return sum(value in sizes for value in num_candidates)


def _first_channels(node: Any) -> int | None:
    """Return n if the node is a slice of the first n channels, else `None`."""
    if node.op_type != "Slice" or any(value is None or value.const_value is None for value in node.inputs[1:]):
        return None
    starts, ends, axes, *steps = (value.const_value.numpy().tolist() for value in node.inputs[1:])
    return ends[0] if (starts, axes) == ([0], [1]) and steps in ([], [[1]]) else None


def _same_map(value: Any, size: int, num_candidates: dict[Any, int]) -> set[Any] | None:
    """Return this value and all values that must be split with it, or `None` if one of them cannot be split."""
    values: set[Any] = set()
    remaining = [value]
    while remaining:
        value = remaining.pop()
        if value in values:
            continue
        values.add(value)
        node = value.producer()
        channels = value.shape[1] if value.shape is not None and len(value.shape) == 4 else None
        if node is None or not isinstance(channels, int) or channels % _BLOCK or size % _BLOCK or size >= channels:
            return None
        if num_candidates.get(value, size) != size:
            return None
        if _is_pointwise(node):
            remaining += [operand for operand in node.inputs if operand.const_value is None]
        elif not _is_plain_convolution(node):
            return None
        remaining += [use.node.outputs[0] for use in value.uses() if _is_pointwise(use.node)]
    return values


def _is_pointwise(node: Any) -> bool:
    """Return whether a node computes each channel from the same channel of its inputs."""
    constants = [value for value in node.inputs if value is not None and value.const_value is not None]
    is_scalar = all(value.const_value.size == 1 for value in constants)
    return node.op_type in _POINTWISE and is_scalar and None not in node.inputs and len(node.outputs) == 1


def _is_plain_convolution(node: Any) -> bool:
    if node.op_type != "Conv" or node.attributes.get_int("group", 1) != 1:
        return False
    return all(value.const_value is not None for value in node.inputs[1:])


class _Splitter:
    """Replaces the nodes that write or read the split values."""

    def __init__(self, graph: Any, sizes: dict[Any, int]) -> None:
        self.graph, self.sizes = graph, sizes
        # Value → its candidates and its rest; the rest is None if it is zero.
        self.parts: dict[Any, tuple[Any, Any]] = {}
        self.next_node: Any = None  # new nodes are inserted before it; None for the end of the graph

    def run(self) -> None:
        for node in list(self.graph):
            self.next_node = node
            output = node.outputs[0]
            if output in self.sizes:
                self.parts[output] = self._split(node, self.sizes[output])
            elif _first_channels(node) is not None and node.inputs[0] in self.parts:
                candidates, _ = self.parts[node.inputs[0]]
                if _first_channels(node) == self.sizes[node.inputs[0]]:
                    output.replace_all_uses_with(candidates)
                else:
                    node.replace_input_with(0, candidates)
            elif _is_plain_convolution(node) and node.inputs[0] in self.parts:
                output.replace_all_uses_with(self._convolution(node, slice(None)))
            else:
                for index, value in enumerate(node.inputs):
                    if value in self.parts:
                        node.replace_input_with(index, self._concatenated(value))
        self.next_node = None
        for index, value in enumerate(self.graph.outputs):
            if value in self.parts:
                name, value.name = value.name, f"{value.name}.unsplit"
                self.graph.outputs[index] = self._concatenated(value)
                self.graph.outputs[index].name = name

    def _concatenated(self, value: Any) -> Any:
        """Return the concatenation of the two parts of a value."""
        import onnx_ir

        return self._node("Concat", self.parts[value], [onnx_ir.AttrInt64("axis", 1)], value, value.shape[1])

    def _split(self, node: Any, size: int) -> tuple[Any, Any]:
        """Return the two parts of a node's output."""
        if node.op_type == "Conv":
            weights = [value.const_value.numpy() for value in node.inputs[1:]]
            changes_candidates_only = weights[0][:size].any() and not any(weight[size:].any() for weight in weights)
            rest = None if changes_candidates_only else self._convolution(node, slice(size, None))
            return self._convolution(node, slice(size)), rest
        parts = []
        for part in (0, 1):
            inputs = [self.parts[value][part] if value in self.parts else value for value in node.inputs]
            if node.op_type == "Add" and None in inputs:
                parts.append(next(value for value in inputs if value is not None))
            else:
                channels = next(value.shape[1] for value in inputs if value.const_value is None)
                parts.append(self._node(node.op_type, inputs, node.attributes.values(), node.outputs[0], channels))
        return parts[0], parts[1]

    def _convolution(self, node: Any, outputs: slice) -> Any:
        """Return a slice of the outputs of a convolution. Its input may be split."""
        x, weight, *bias = node.inputs
        kernel = weight.const_value.numpy()[outputs]
        biases = [self._constant(value.const_value.numpy()[outputs]) for value in bias]
        attributes, like, channels = node.attributes.values(), node.outputs[0], len(kernel)
        if x not in self.parts:
            return self._node("Conv", [x, self._constant(kernel), *biases], attributes, like, channels)
        size = self.sizes[x]
        candidates, rest = self.parts[x]
        first = self._node("Conv", [candidates, self._constant(kernel[:, :size])], attributes, like, channels)
        second = self._node("Conv", [rest, self._constant(kernel[:, size:]), *biases], attributes, like, channels)
        return self._node("Add", [first, second], [], like, channels)

    def _node(self, op_type: str, inputs: Any, attributes: Any, like: Any, channels: int) -> Any:
        """Add a node and return its output. The shape is that of `like`, except for the number of channels."""
        import onnx_ir

        node = onnx_ir.Node("", op_type, inputs, attributes)
        node.outputs[0].type = like.type
        node.outputs[0].shape = onnx_ir.Shape([like.shape[0], channels, *like.shape[2:]])
        if self.next_node is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.next_node, node)
        return node.outputs[0]

    def _constant(self, array: np.ndarray) -> Any:
        import onnx_ir

        name = f"split_{len(self.graph.initializers)}"
        value = onnx_ir.Value(name=name, const_value=onnx_ir.tensor(np.ascontiguousarray(array), name=name))
        value.dtype, value.shape = onnx_ir.DataType.FLOAT, onnx_ir.Shape(array.shape)
        self.graph.register_initializer(value)
        return value

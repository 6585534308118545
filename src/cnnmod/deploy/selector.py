"""Which operators of a written graph make the selections and the scores: those that stay in float32."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SELECTED = ".selected"  # after a MoD block's name: the tensor of the channel indices that it selects, (N, K)
_POOLING = ("ReduceMean",)
_ON_FEATURE_MAPS = ("Conv", "Convolution", "GroupConvolution", "MatMul", "Gather", "GatherND")


@dataclass(frozen=True)
class Node:
    """An operator of a graph.

    Attributes:
        operator: What it computes, in the format's own term.
        reads: The names of the operators whose results it reads.
        selects: Whether it is a MoD block's top-k.
    """

    operator: str
    reads: list[str]
    selects: bool = False


def selector_nodes(nodes: Mapping[str, Node]) -> set[str]:
    """The names of all operators that make the selections and the scores, from pooling's result to the feature maps.

    Pooling itself is not among them: it reads the feature map as it is, in few bits, and sums up in float32 anyway.

    Examples:
        >>> nodes = {"a": Node("Conv", []), "pool": Node("ReduceMean", ["a"]), "logits": Node("MatMul", ["pool"])}
        >>> nodes |= {"top": Node("TopK", ["logits"], selects=True), "score": Node("Sigmoid", ["top"])}
        >>> nodes |= {"scaled": Node("Mul", ["b", "score"]), "b": Node("Conv", ["a"]), "c": Node("Conv", ["scaled"])}
        >>> sorted(selector_nodes(nodes))
        ['logits', 'scaled', 'score', 'top']
    """
    readers: dict[str, list[str]] = {name: [] for name in nodes}
    for name, node in nodes.items():
        for read in node.reads:
            readers[read].append(name)
    tops = {name for name, node in nodes.items() if node.selects}

    def walk(towards: Callable[[str], list[str]], end: tuple[str, ...]) -> set[str]:
        found, left = set(tops), list(tops)
        while left:
            following = {name for name in towards(left.pop()) if nodes[name].operator not in end} - found
            found |= following
            left += following
        return found

    return walk(lambda name: nodes[name].reads, _POOLING) | walk(readers.__getitem__, _ON_FEATURE_MAPS)


def onnx_nodes(graph: Any) -> dict[str, Node]:
    """The operators of an ONNX graph, by name."""
    makers = {output: node.name for node in graph.node for output in node.output}
    return {
        node.name: Node(
            node.op_type,
            [makers[read] for read in node.input if read in makers],
            any(output.endswith(SELECTED) for output in node.output),
        )
        for node in graph.node
    }


def openvino_nodes(model: Any) -> dict[str, Node]:
    """The operators of an OpenVINO model, by name, constants left out."""
    operators = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() != "Constant"}
    return {
        name: Node(
            node.get_type_name(),
            [read for value in node.input_values() if (read := value.get_node().get_friendly_name()) in operators],
            any(tensor.endswith(SELECTED) for output in node.outputs() for tensor in output.get_names()),
        )
        for name, node in operators.items()
    }

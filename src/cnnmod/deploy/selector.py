"""Find the operators of a written graph that compute the selections and the scores. They stay in float32."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SELECTED = ".selected"  # suffix of a MoD block's name that names the tensor of its selected channel indices (N, K)
_POOLING = ("ReduceMean",)
_ON_FEATURE_MAPS = ("Conv", "Convolution", "GroupConvolution", "MatMul", "Gather", "GatherND")


@dataclass(frozen=True)
class Node:
    """An operator of a graph.

    Attributes:
        operator: The type of the operator, as named by the format.
        reads: The names of the operators whose results it reads.
        selects: Whether the operator is the top-k of a MoD block.
    """

    operator: str
    reads: list[str]
    selects: bool = False


def selector_nodes(nodes: Mapping[str, Node]) -> set[str]:
    """Return the names of all operators that compute selections and scores, from pooling to the feature maps.

    Pooling is not included, because it reads the feature map in its own precision and accumulates in float32.

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

    def walk(neighbors: Callable[[str], list[str]], end: tuple[str, ...]) -> set[str]:
        visited, remaining = set(tops), list(tops)
        while remaining:
            new = {name for name in neighbors(remaining.pop()) if nodes[name].operator not in end} - visited
            visited |= new
            remaining += new
        return visited

    return walk(lambda name: nodes[name].reads, _POOLING) | walk(readers.__getitem__, _ON_FEATURE_MAPS)


def onnx_nodes(graph: Any) -> dict[str, Node]:
    """Return the operators of an ONNX graph, by name."""
    producers = {output: node.name for node in graph.node for output in node.output}
    return {
        node.name: Node(
            node.op_type,
            [producers[read] for read in node.input if read in producers],
            any(output.endswith(SELECTED) for output in node.output),
        )
        for node in graph.node
    }


def openvino_nodes(model: Any) -> dict[str, Node]:
    """Return the operators of an OpenVINO model, by name, without constants."""
    operators = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() != "Constant"}
    return {
        name: Node(
            node.get_type_name(),
            [read for value in node.input_values() if (read := value.get_node().get_friendly_name()) in operators],
            any(tensor.endswith(SELECTED) for output in node.outputs() for tensor in output.get_names()),
        )
        for name, node in operators.items()
    }

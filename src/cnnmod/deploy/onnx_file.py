"""Write a lowered network as an ONNX file."""

import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.outputs import IMAGES, named_outputs
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.split import split_candidates_
from cnnmod.deploy.torch_export import check_outputs, exported, images_for, quiet, shapes_for
from cnnmod.method.convert import mod_blocks


def write_onnx(
    model: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool, half: bool = False, split: bool
) -> None:
    """Write a lowered network as one ONNX file that contains all weights.

    The name of the input is `images`, and the outputs have the names of `named_outputs`. The tensors with the selected
    channels are named after their MoD blocks. Metadata about the origin of the network is removed.

    Args:
        model: The network that `lower` returns.
        example: Images (N, C, H, W). Without a dynamic batch, the file takes batches of N images.
        path: The file to write.
        dynamic_batch: Whether the file takes any batch size.
        half: Store weights in 16 bits. They are converted to float32 when the file is loaded.
        split: Split the feature maps from which MoD blocks read candidates. ONNX Runtime runs such a file faster.

    Raises:
        ValueError: If the network cannot be exported (the error names the layer), is a detector, returns a dtype that
            NumPy does not have, or has weights that are too large for 16 bits.
    """
    import onnx

    check_outputs(model, example, for_numpy=True)
    names: list[str] = []

    def outputs(output: Any) -> tuple[Tensor, ...]:
        named = named_outputs(output)
        names[:] = named
        # Distinct tensors, since a tensor may be returned twice.
        return tuple(value.clone() for value in named.values())

    with quiet():
        program = exported(
            lambda: torch.onnx.export(
                model,
                (images_for(example, dynamic_batch),),
                dynamo=True,
                dynamic_shapes=shapes_for(model, dynamic_batch),
                custom_translation_table={torch.ops.cnnmod.gather_planes.default: _gather_planes},
                verbose=False,
            ),
            model,
            example,
            outputs,
        )
    assert program is not None
    if split:
        split_candidates_(program.model)
    _name_(program.model.graph, names)
    proto = program.model_proto
    blocks = set(mod_blocks(model))
    for node in proto.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
        block = next((name for name in blocks if f"'{name}'" in scopes), None)
        if node.op_type == "TopK" and block is not None and f"{block}{SELECTED}" not in blocks:
            blocks.add(f"{block}{SELECTED}")
            _rename(proto.graph, node.output[1], f"{block}{SELECTED}")
        del node.metadata_props[:]
    del proto.graph.metadata_props[:], proto.metadata_props[:]
    if half:
        _store_half(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())


def _name_(graph: Any, outputs: list[str]) -> None:
    """Name the input and the outputs of an `onnx_ir` graph. Rename other values that have these names."""
    names = dict(zip((*graph.inputs, *graph.outputs), (IMAGES, *outputs), strict=True))
    inner = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    reserved = set(names.values())
    taken = reserved | {value.name for value in (*graph.inputs, *inner)}
    free = (name for number in itertools.count() if (name := f"value_{number}") not in taken)
    for value in (*graph.inputs, *inner):
        if value.name in reserved:
            value.name = next(free)
    for value, name in names.items():
        value.name = name


def _gather_planes(x_NCHW: Any, index_NK: Any) -> Any:
    from onnxscript import opset18

    op: Any = opset18  # its type annotations are stricter than its operators
    return op.GatherND(x_NCHW, op.Unsqueeze(index_NK, op.Constant(value_ints=[2])), batch_dims=1)


def _store_half(graph: Any) -> None:
    """Store weights in 16 bits, each followed by a cast. The runtime runs the casts once, when it loads the file."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    limit = np.finfo(np.float16).max
    casts: list[Any] = []
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1:
            name = weight.name
            values = numpy_helper.to_array(weight)
            if (largest := np.abs(values[np.isfinite(values)]).max(initial=0)) > limit:
                raise ValueError(f"half supports weights up to {limit:.0f}, but {name} has {largest:.1e}")
            weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.node.insert(0, cast)


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    for value in graph.value_info:
        if value.name == old:
            value.name = new

"""An ONNX file of a lowered network."""

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
    """Write a lowered network as one ONNX file.

    All weights are in the one file. The input is called `images`, the outputs as `named_outputs` calls them, and the
    tensors that hold the MoD blocks' selected channels after the blocks; nothing else of where the network came from is
    in it.

    Args:
        model: What `lower` returns.
        example: Images (N, C, H, W); without a dynamic batch the file takes N at a time.
        path: The file.
        dynamic_batch: Whether the file takes any number of images.
        half: Store weights in 16 bits; they are widened when the file is loaded.
        split: Cut the feature maps that MoD blocks read candidates of, which ONNX Runtime runs faster.

    Raises:
        ValueError: The network cannot be exported, with the layer that cannot; it is a detector, or returns what NumPy
            has no type for; or it has weights that 16 bits cannot hold.
    """
    import onnx

    check_outputs(model, example, for_numpy=True)
    names: list[str] = []

    def outputs(output: Any) -> tuple[Tensor, ...]:
        named = named_outputs(output)
        names[:] = named
        return tuple(one.clone() for one in named.values())  # each its own, also what is returned twice, or an input

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
    """Give the input and the outputs of an `onnx_ir` graph their names, and other names to what has these."""
    names = dict(zip((*graph.inputs, *graph.outputs), (IMAGES, *outputs), strict=True))
    inner = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    wanted = set(names.values())
    taken = wanted | {value.name for value in (*graph.inputs, *inner)}
    free = (name for number in itertools.count() if (name := f"value_{number}") not in taken)
    for value in (*graph.inputs, *inner):
        if value.name in wanted:
            value.name = next(free)
    for value, name in names.items():
        value.name = name


def _gather_planes(x_NCHW: Any, index_NK: Any) -> Any:
    from onnxscript import opset18

    op: Any = opset18  # its types ask for more than its operators do
    return op.GatherND(x_NCHW, op.Unsqueeze(index_NK, op.Constant(value_ints=[2])), batch_dims=1)


def _store_half(graph: Any) -> None:
    """Weights in 16 bits, each with a cast that the runtime does once, when it loads the file."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    limit = np.finfo(np.float16).max
    casts: list[Any] = []
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1:
            name = weight.name
            values = numpy_helper.to_array(weight)
            if (largest := np.abs(values[np.isfinite(values)]).max(initial=0)) > limit:
                raise ValueError(f"half stores weights up to {limit:.0f} in 16 bits, but {name} has {largest:.1e}")
            weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.node.insert(0, cast)


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for value in graph.value_info:
        if value.name == old:
            value.name = new

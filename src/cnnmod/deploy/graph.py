"""A lowered network as a file: ONNX, OpenVINO's, or torch.export's."""

import inspect
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from cnnmod.deploy.exportable import not_exportable
from cnnmod.deploy.openvino_file import write_openvino
from cnnmod.deploy.outputs import IMAGES, named_outputs, plain
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.split import split_candidates_
from cnnmod.method.convert import mod_blocks
from cnnmod.method.restore import restored
from cnnmod.method.trace import meta_forward

Format: TypeAlias = Literal["onnx", "openvino", "pt2"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}


def write(
    model: nn.Module, example: Tensor, path: Path, kind: Format, *, dynamic_batch: bool, half: bool = False
) -> None:
    """Write a lowered network.

    Args:
        model: What `lower` returns for the runtime.
        example: Images (N, C, H, W); without a dynamic batch the file takes N at a time.
        path: The file, with the ending of its format; OpenVINO's second lies beside it.
        kind: The format.
        dynamic_batch: Whether the file takes any number of images.
        half: Store weights in 16 bits; they are widened when the file is loaded.

    Raises:
        ValueError: The network cannot be exported, with the layer that cannot; or it is a detector, or returns what a
            file cannot hold; or weights that 16 bits cannot.
    """
    _check_outputs(model, example, kind)
    if kind == "pt2":
        _write_pt2(model, example, path, dynamic_batch)
    elif kind == "onnx":
        _write_onnx(model, example, path, dynamic_batch, half, split=True)
    else:
        onnx_path = path.with_name(f".{path.name}.onnx")  # a file of the same stem may be the user's
        _write_onnx(model, example, onnx_path, dynamic_batch, half=False, split=False)
        write_openvino(onnx_path, path, half)
        onnx_path.unlink()


def _write_onnx(model: nn.Module, example: Tensor, path: Path, dynamic_batch: bool, half: bool, *, split: bool) -> None:
    """All weights are in the one file. The input is called `images`, the outputs as `named_outputs` calls them, and the
    tensors that hold the MoD blocks' selected channels after the blocks; nothing else of where the network came from is
    in it."""
    import onnx

    names: list[str] = []

    def outputs(output: Any) -> tuple[Tensor, ...]:
        named = named_outputs(output)
        names[:] = named
        return tuple(one.clone() for one in named.values())  # each its own, also what is returned twice, or an input

    with _quiet():
        program = _exported(
            lambda: torch.onnx.export(
                model,
                (_batch(example, dynamic_batch),),
                dynamo=True,
                dynamic_shapes=_shapes(model, dynamic_batch),
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


def _check_outputs(model: nn.Module, example: Tensor, kind: Format) -> None:
    """Raise `ValueError` for a network whose outputs a file cannot hold."""
    try:
        output = meta_forward(model, example)
    except ValueError:  # the exporter fails too, and is asked where
        return
    if isinstance(output, list) and output and isinstance(output[0], dict) and "boxes" in output[0]:
        raise ValueError(
            f"{type(model).__name__} is a detector: how many boxes it finds depends on the image, which torch's "
            "exporters cannot write. Export what takes its time, model.backbone, and run the rest in torch"
        )
    for name, value in named_outputs(output).items():
        if kind != "pt2" and (value.is_complex() or value.dtype == torch.bfloat16):
            raise ValueError(
                f"the network returns {value.dtype} as {name!r}; ONNX and OpenVINO files give floats, integers and "
                "booleans that NumPy has"
            )


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


def _write_pt2(model: nn.Module, example: Tensor, path: Path, dynamic_batch: bool) -> None:
    with _quiet():
        program = _exported(
            lambda: torch.export.export(
                model, (_batch(example, dynamic_batch),), dynamic_shapes=_shapes(model, dynamic_batch)
            ),
            model,
            example,
            plain,
        )
        torch.export.save(program, path)


def _shapes(model: nn.Module, dynamic_batch: bool) -> Any:
    """For torch.export: the input's first dimension is any, in `forward(images)` or `forward(*inputs)`."""
    if not dynamic_batch:
        return None
    images = {0: torch.export.Dim("batch")}
    first = next(iter(inspect.signature(model.forward).parameters.values()))
    return ((images,),) if first.kind is first.VAR_POSITIONAL else (images,)


def _batch(example: Tensor, dynamic: bool) -> Tensor:
    """torch.export takes a batch of one for a constant."""
    return example[:1].repeat(2, 1, 1, 1) if dynamic else example


def _exported(export: Callable[[], Any], model: nn.Module, example: Tensor, outputs: Callable[[Any], Any]) -> Any:
    """What an exporter makes of a network that returns `outputs` of what it returns."""
    hook = model.register_forward_hook(lambda module, args, output: outputs(output))
    try:
        with restored(model, weights=False):  # an exporter's tensors stay in what a forward caches
            return export()
    except Exception as error:  # whatever an exporter raises at a foreign forward
        hook.remove()
        raise not_exportable(model, example, error) from error
    finally:
        hook.remove()


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for value in graph.value_info:
        if value.name == old:
            value.name = new


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of their own innards."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)

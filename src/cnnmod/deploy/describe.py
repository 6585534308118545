"""Write a description into an ONNX or OpenVINO file, and add the normalization of uint8 pixels to its graph."""

import itertools
from pathlib import Path
from typing import Any

from cnnmod.deploy.description import Description
from cnnmod.deploy.outputs import IMAGES
from cnnmod.records.files import replace

RT_INFO = "cnnmod"  # the entry of OpenVINO's rt_info that has the description


def describe_onnx_(path: Path, description: Description) -> None:
    """Add a description to an ONNX file as metadata. With preprocessing, also add the normalization to the graph."""
    import onnx

    model = onnx.load(path)
    if description.preprocessing:
        _normalize_onnx_(model.graph, description)
    onnx.helper.set_model_props(model, description.metadata())
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def describe_openvino_(path: Path, description: Description) -> None:
    """Add a description to an OpenVINO file as rt_info. With preprocessing, also add the normalization to the graph."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    model = openvino.Core().read_model(path)
    if description.preprocessing:
        assert description.mean is not None
        assert description.std is not None
        processor = PrePostProcessor(model)
        images = processor.input()
        images.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
        images.model().set_layout(openvino.Layout("NCHW"))
        steps = images.preprocess().convert_element_type(openvino.Type.f32)
        steps.mean([255 * value for value in description.mean]).scale([255 * value for value in description.std])
        model = processor.build()
    for key, value in description.metadata().items():
        model.set_rt_info(value, [RT_INFO, key])
    copy = path.with_stem(f"described-{path.stem}")  # the weights of the model are still read from the file
    openvino.save_model(model, copy, compress_to_fp16=False)  # weights that have 16 bits keep them
    for suffix in (".bin", path.suffix):
        replace(copy.with_suffix(suffix), path.with_suffix(suffix))


def _normalize_onnx_(graph: Any, description: Description) -> None:
    """Let an ONNX graph take pixels (N, H, W, C) in uint8, and normalize them before its first operators."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    images = graph.input[0]
    batch, channels, height, width = (size.dim_param or size.dim_value for size in images.type.tensor_type.shape.dim)
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    names |= {value.name for value in graph.initializer}
    floats, planes, scaled, normalized, factor, shift = (
        _free(f"{IMAGES}_{name}", names) for name in ("float", "nchw", "scaled", "normalized", "factor", "shift")
    )
    for node in graph.node:
        node.input[:] = [normalized if name == IMAGES else name for name in node.input]
    mean, std = np.array(description.mean), np.array(description.std)
    factors, shifts = (values.astype(np.float32)[:, None, None] for values in (1 / (255 * std), -mean / std))
    graph.initializer.extend([numpy_helper.from_array(factors, factor), numpy_helper.from_array(shifts, shift)])
    steps = [
        helper.make_node("Cast", [IMAGES], [floats], to=TensorProto.FLOAT),
        helper.make_node("Transpose", [floats], [planes], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", [planes, factor], [scaled]),
        helper.make_node("Add", [scaled, shift], [normalized]),
    ]
    for step in reversed(steps):
        graph.node.insert(0, step)
    shape = [batch, height, width, channels]
    images.CopyFrom(helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, shape))


def _free(name: str, taken: set[str]) -> str:
    """Return the name, with a number if it is taken."""
    return next(free for number in itertools.count() if (free := f"{name}_{number}" if number else name) not in taken)

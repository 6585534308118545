"""Quantize a float file to INT8 after training, with calibration on images.

Weights have 8 bits and a scale for each output channel. Feature maps have 8 bits and a scale for each tensor. The
channel selectors compute in float after pooling, so that the logits of the top-k are not rounded. The tensors of
selected channels keep their names.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from torch import Tensor

from cnnmod.deploy.outputs import IMAGES
from cnnmod.deploy.selector import onnx_nodes, openvino_nodes, selector_nodes


def quantize_onnx(source: Path, path: Path, images_NCHW: Tensor) -> None:
    """Quantize an ONNX file with ONNX Runtime's static quantizer. See `FileTarget.quantize`."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    graph = onnx.load(source).graph
    batch_size = graph.input[0].type.tensor_type.shape.dim[0].dim_value  # 0 for a dynamic batch
    inputs = ({IMAGES: batch.numpy()} for batch in images_NCHW.detach().cpu().split(batch_size or 1))

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            return next(inputs, None)

    with _without_root_logger():
        quantize_static(
            source,
            path,
            Reader(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=sorted(selector_nodes(onnx_nodes(graph))),
            # Logits with 8 bits would often be equal.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )


def quantize_openvino(source: Path, path: Path, images_NCHW: Tensor) -> None:
    """Quantize an OpenVINO file with NNCF. See `FileTarget.quantize`."""
    import nncf
    import openvino
    from nncf.common.logging import nncf_logger
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # NNCF's defaults are mean ranges and bias correction. With them, a network trained on CIFAR-10 predicted other
    # classes and selected other channels about twice as often as with these parameters.
    parameters = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX, disable_bias_correction=True
    )
    model = openvino.Core().read_model(source)
    _replace_slices_(model)
    batch_size = model.input().get_partial_shape()[0]
    batches = images_NCHW.detach().cpu().split(batch_size.get_length() if batch_size.is_static else 1)
    level = nncf_logger.level
    nncf_logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):  # progress bars
            quantized = nncf.quantize(
                model,
                nncf.Dataset([batch.numpy() for batch in batches]),
                subset_size=len(batches),
                ignored_scope=nncf.IgnoredScope(names=sorted(selector_nodes(openvino_nodes(model)))),
                advanced_parameters=parameters,
            )
    finally:
        nncf_logger.setLevel(level)
    openvino.save_model(quantized, path, compress_to_fp16=False)


def _replace_slices_(model: Any) -> None:
    """Replace each `Slice` of the first channels that only convolutions read with a `StridedSlice`.

    NNCF quantizes the result of a `Slice`, so the feature map stays in float. It quantizes the input of a
    `StridedSlice`.
    """
    import numpy as np
    from openvino import opset13

    for node in model.get_ops():
        if node.get_type_name() != "Slice":
            continue
        readers = {reader.get_node().get_type_name() for reader in node.output(0).get_target_inputs()}
        if not readers <= {"Convolution", "GroupConvolution"}:
            continue
        constants = [node.input_value(index).get_node() for index in range(1, node.get_input_size())]
        if any(constant.get_type_name() != "Constant" for constant in constants):
            continue
        start, stop, step, axes = (constant.get_data().tolist() for constant in constants)
        if (start, step, axes) == ([0], [1], [1]):
            begin, end, stride = np.array([0, 0]), np.array([0, *stop]), np.array([1, 1])
            first = opset13.strided_slice(
                node.input_value(0),
                begin,
                end,
                stride,
                begin_mask=[1, 1],
                end_mask=[1, 0],
                name=node.get_friendly_name(),
            )
            node.output(0).replace(first.output(0))


@contextmanager
def _without_root_logger() -> Iterator[None]:
    """Disable the root logger. ONNX Runtime's quantizer logs to it, which would add handlers for the whole program."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    disabled, root.disabled = root.disabled, True
    try:
        yield
    finally:
        root.disabled = disabled
        root.removeHandler(handler)

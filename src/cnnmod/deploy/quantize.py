"""An INT8 file of a float one: quantized after training, calibrated on images.

Weights take 8 bits with a scale for each output channel, feature maps 8 bits with a scale for each tensor. The channel
selectors compute in float from pooling on, so that top-k sees no rounded logits. The tensors of selected channels keep
their names.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from cnnmod.deploy.outputs import IMAGES
from cnnmod.deploy.selector import onnx_nodes, openvino_nodes, selector_nodes


def quantize_onnx(source: Path, path: Path, images_NCHW: Tensor) -> None:
    """Quantize an ONNX file with ONNX Runtime's static quantizer.

    Args:
        source: The float file.
        path: The INT8 file.
        images_NCHW: Calibration images, float32; of a file with a fixed number of images a multiple of that.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    graph = onnx.load(source).graph
    fixed = graph.input[0].type.tensor_type.shape.dim[0].dim_value  # 0 if it is not
    inputs = ({IMAGES: batch.numpy()} for batch in images_NCHW.detach().cpu().split(fixed or 1))

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
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},  # logits of 8 bits would tie
        )


def quantize_openvino(source: Path, path: Path, images_NCHW: Tensor) -> None:
    """Quantize OpenVINO's files with NNCF.

    Args:
        source: The float file.
        path: The INT8 file.
        images_NCHW: Calibration images, float32; of a file with a fixed number of images a multiple of that.
    """
    import nncf
    import openvino
    from nncf.common.logging import nncf_logger
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # With NNCF's defaults, mean ranges and corrected biases, a network trained on CIFAR-10 gave other classes, and
    # selected other channels, about twice as often.
    parameters = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX, disable_bias_correction=True
    )
    model = openvino.Core().read_model(source)
    batch_size = model.input().get_partial_shape()[0]
    batches = images_NCHW.detach().cpu().split(batch_size.get_length() if batch_size.is_static else 1)
    level = nncf_logger.level
    nncf_logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # progress bars
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


@contextmanager
def _without_root_logger() -> Iterator[None]:
    """ONNX Runtime's quantizer talks through the root logger, which would set up handlers for the whole program."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    disabled, root.disabled = root.disabled, True
    try:
        yield
    finally:
        root.disabled = disabled
        root.removeHandler(handler)

"""The target `openvino`: OpenVINO files in OpenVINO, on the CPU."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.describe import describe_openvino_
from cnnmod.deploy.description import Description
from cnnmod.deploy.graph_forms import GraphForm, OnnxForm
from cnnmod.deploy.onnx_file import write_onnx
from cnnmod.deploy.openvino_file import write_openvino
from cnnmod.deploy.quantize import quantize_openvino
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.targets.target import FLOAT32, INT8, FileTarget

BFLOAT16 = "bf16"


class OpenVinoTarget(FileTarget):
    """OpenVINO files (.xml and .bin) in OpenVINO, on the CPU."""

    name = "openvino"
    forms = (OnnxForm, GraphForm)
    precisions = (BFLOAT16, INT8)
    packages = ("onnx", "onnxscript", "openvino")
    packages_int8 = ("nncf",)
    extra = "deploy"
    format = "openvino"
    suffix = ".xml"
    stores_half = True
    describes = True

    def write(
        self, lowered: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool, half: bool = False
    ) -> None:
        """See `FileTarget.write`. An ONNX file is written first, in the same folder, and then deleted."""
        onnx_path = path.with_name(f".{path.name}.onnx")  # the user may have a file `stem.onnx`
        write_onnx(lowered, example, onnx_path, dynamic_batch=dynamic_batch, split=False)
        write_openvino(onnx_path, path, half)
        onnx_path.unlink()

    def load(self, path: Path, threads: int, precision: str = FLOAT32, *, selected: bool = False) -> "Request":
        """See `FileTarget.load`. `"int8"` loads as float32, since an INT8 file contains INT8 operators."""
        return Request(path, threads, BFLOAT16 if precision == BFLOAT16 else "f32", selected)

    def operators(self, path: Path) -> dict[str, int]:
        import openvino

        names = [node.get_type_name() for node in openvino.Core().read_model(path).get_ops()]
        return dict(Counter(name for name in names if name not in ("Constant", "Parameter", "Result")).most_common())

    def quantize(self, source: Path, path: Path, images_NCHW: Tensor) -> None:
        """See `FileTarget.quantize`. NNCF is used."""
        quantize_openvino(source, path, images_NCHW)

    def describe_(self, path: Path, description: Description) -> None:
        describe_openvino_(path, description)


class Request:
    """An OpenVINO file, compiled for the CPU."""

    def __init__(self, path: Path, threads: int, precision: str, selected: bool = False) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        names = {name for node in model.get_ops() for output in node.outputs() for name in output.get_names()}
        if selected:
            model.add_outputs(sorted(name for name in names if name.endswith(SELECTED)))
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """Return all outputs by name."""
        outputs = self._request.infer([images_NCHW.detach().numpy()], share_inputs=True)
        return {output.get_any_name(): torch.from_numpy(value.copy()) for output, value in outputs.items()}

    def __call__(self, images_NCHW: Tensor) -> Any:
        """Return the outputs as arrays. The next call overwrites them."""
        return self._request.infer([images_NCHW.detach().numpy()], share_inputs=True, share_outputs=True)

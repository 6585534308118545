"""The target `onnxruntime`: ONNX files in ONNX Runtime, on the CPU."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.describe import describe_onnx_
from cnnmod.deploy.description import Description
from cnnmod.deploy.graph_forms import GraphForm, OnnxForm
from cnnmod.deploy.onnx_file import write_onnx
from cnnmod.deploy.outputs import IMAGES
from cnnmod.deploy.quantize import quantize_onnx
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.targets.target import FLOAT32, INT8, FileTarget
from cnnmod.method.convert import mod_blocks


class OnnxRuntimeTarget(FileTarget):
    """ONNX files in ONNX Runtime, on the CPU."""

    name = "onnxruntime"
    forms = (OnnxForm, GraphForm)
    precisions = (INT8,)
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "deploy"
    format = "onnx"
    suffix = ".onnx"
    stores_half = True
    describes = True

    def write(
        self, lowered: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool, half: bool = False
    ) -> None:
        write_onnx(lowered, example, path, dynamic_batch=dynamic_batch, half=half, split=True)

    def write_for_int8(self, lowered: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool) -> None:
        """See `FileTarget.write_for_int8`. Narrow blocks are faster with slices than with split feature maps."""
        configs = [block.config for block in mod_blocks(lowered).values()]
        forms = {(config.select, config.scale, config.fuse_to) for config in configs}
        write_onnx(lowered, example, path, dynamic_batch=dynamic_batch, split=forms != {("first", "none", "all")})

    def load(self, path: Path, threads: int, precision: str = FLOAT32, *, selected: bool = False) -> "Session":
        """See `FileTarget.load`. The precision is not used, since an INT8 file contains INT8 operators."""
        return Session(path, threads, selected)

    def operators(self, path: Path) -> dict[str, int]:
        import onnx

        return dict(Counter(node.op_type for node in onnx.load(path).graph.node).most_common())

    def quantize(self, source: Path, path: Path, images_NCHW: Tensor) -> None:
        """See `FileTarget.quantize`. ONNX Runtime's static quantizer is used."""
        quantize_onnx(source, path, images_NCHW)

    def describe_(self, path: Path, description: Description) -> None:
        describe_onnx_(path, description)

    def opset(self, path: Path) -> int | None:
        import onnx

        return onnx.load(path, load_external_data=False).opset_import[0].version


class Session:
    """An ONNX file, loaded in ONNX Runtime."""

    def __init__(self, path: Path, threads: int, selected: bool = False) -> None:
        import onnx
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # By default, the threads of a session keep spinning after a run and take the cores from the next network.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        source: Any = str(path)
        if selected:
            loaded = onnx.load(path)
            names = [name for node in loaded.graph.node for name in node.output if name.endswith(SELECTED)]
            loaded.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
            source = loaded.SerializeToString()
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """Return all outputs by name."""
        return {name: torch.from_numpy(value) for name, value in zip(self._names, self(images_NCHW), strict=True)}

    def __call__(self, images_NCHW: Tensor) -> Any:
        """Return the outputs as arrays."""
        return self._session.run(None, {IMAGES: images_NCHW.detach().numpy()})

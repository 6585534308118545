"""The runtimes that a network is measured in, one small class each: it loads, and runs."""

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from cnnmod.deploy.graph import SUFFIXES, Format, write
from cnnmod.deploy.lower import lower
from cnnmod.deploy.outputs import IMAGES, named_outputs
from cnnmod.deploy.quantize import quantize
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.weights import check_finite

Runtime: TypeAlias = Literal[
    "eager", "compile", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16", "openvino-int8", "pt2"
]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
IN_TORCH = ("eager", "compile", "pt2")
_FORMAT_OF: dict[Runtime, Format] = {
    "onnxruntime": "onnx",
    "onnxruntime-int8": "onnx",
    "openvino": "openvino",
    "openvino-bf16": "openvino",
    "openvino-int8": "openvino",
    "pt2": "pt2",
}


class OnnxRuntime:
    """An ONNX file in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, threads: int, selected: bool = False) -> None:
        import onnx
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # A session's threads go on spinning after a run: beside another network's run they would take its cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        proto: Any = str(path)
        if selected:
            loaded = onnx.load(path)
            names = [name for node in loaded.graph.node for name in node.output if name.endswith(SELECTED)]
            loaded.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
            proto = loaded.SerializeToString()
        self._session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """All outputs by name."""
        values = self._session.run(None, {IMAGES: _array(images_NCHW)})
        return {name: torch.from_numpy(value) for name, value in zip(self._names, values, strict=True)}

    def __call__(self, images_NCHW: Tensor) -> Any:
        """The outputs, as arrays."""
        return self._session.run(None, {IMAGES: _array(images_NCHW)})


class OpenVino:
    """OpenVINO's two files on the CPU."""

    def __init__(self, path: Path, threads: int, precision: str = "f32", selected: bool = False) -> None:
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
        """All outputs by name."""
        found = self._request.infer([_array(images_NCHW)], share_inputs=True)
        return {output.get_any_name(): torch.from_numpy(value.copy()) for output, value in found.items()}

    def __call__(self, images_NCHW: Tensor) -> Any:
        """The outputs, as arrays that the next call overwrites."""
        return self._request.infer([_array(images_NCHW)], share_inputs=True, share_outputs=True)


class Exported:
    """A file of torch.export, in torch."""

    def __init__(self, path: Path) -> None:
        self.module = torch.export.load(path).module()

    def run(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """All outputs by name, and the selected channels."""
        recorder = _Recorder(self.module)
        device = next(self.module.parameters(), images_NCHW).device
        with torch.inference_mode():
            output = recorder.run(images_NCHW.to(device))
        return named_outputs(output) | recorder.selected

    def __call__(self, images_NCHW: Tensor) -> Any:
        """The outputs."""
        with torch.inference_mode():
            return self.module(images_NCHW)


class _Recorder(torch.fx.Interpreter):
    """Runs a graph, and keeps what the MoD blocks' topk gives."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.selected: dict[str, Tensor] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.target is torch.ops.aten.topk.default:
            block, _ = list(n.meta["nn_module_stack"].values())[-1]
            self.selected[f"{block}{SELECTED}"] = value[1]
        return value


class InTorch:
    """A module without gradients, eager or compiled."""

    def __init__(self, module: Callable[[Tensor], Any]) -> None:
        self.module = module

    def __call__(self, images_NCHW: Tensor) -> Any:
        with torch.inference_mode():
            return self.module(images_NCHW)


def _array(images_NCHW: Tensor) -> Any:
    return images_NCHW.detach().numpy()


def start(
    model: nn.Module, runtime: Runtime, example: Tensor, *, channels_last: bool = False
) -> Callable[[Tensor], Any]:
    """Lower a network to a runtime and load it there, with as many threads as torch has.

    Args:
        model: Any network. It stays as it is.
        runtime: One of `RUNTIMES`.
        example: Images (N, C, H, W), of the batch size that will be run; INT8 is calibrated on them.
        channels_last: The memory format, where torch runs.

    Raises:
        ValueError: An unknown runtime, a network that cannot be lowered or exported, or images that are on another
            device than the runtime.
        ModuleNotFoundError: The runtime is not installed, with the extra that brings it.
    """
    check_runtime(runtime)
    if runtime not in IN_TORCH and example.device.type != "cpu":
        raise ValueError(f"{runtime} runs on the CPU; give the example and the networks there, not on {example.device}")
    if runtime.endswith("-int8"):
        check_finite(model)
    lowered = lower(model, runtime.partition("-")[0], example=example[:1])
    if channels_last:
        lowered.to(memory_format=torch.channels_last)
    if runtime == "eager":
        return InTorch(lowered)
    if runtime == "compile":
        compiled = InTorch(torch.compile(lowered, dynamic=False))
        with torch._dynamo.config.patch(recompile_limit=1000):  # of one class's forward; beyond it torch runs in eager
            compiled(example)
        return compiled
    with tempfile.TemporaryDirectory() as folder:
        kind = _FORMAT_OF[runtime]
        path = Path(folder) / f"network{SUFFIXES[kind]}"
        write(lowered, example, path, kind, dynamic_batch=False)
        if runtime.endswith("-int8"):
            source, path = path, path.with_stem("int8")
            quantize(source, path, example, kind)
        return load(path, runtime, torch.get_num_threads())


def load(path: Path, runtime: Runtime, threads: int, *, selected: bool = False) -> OnnxRuntime | OpenVino | Exported:
    """A written file in its runtime; `selected` adds the selected channels to the outputs of `run`."""
    if runtime == "pt2":
        return Exported(path)
    if runtime.startswith("onnxruntime"):
        return OnnxRuntime(path, threads, selected)
    return OpenVino(path, threads, "bf16" if runtime == "openvino-bf16" else "f32", selected)


def check_runtime(name: str) -> Runtime:
    """The runtime of this name.

    Raises:
        ValueError: There is none.
        ModuleNotFoundError: It is not installed, with the extra that brings it.
    """
    known: dict[str, Runtime] = {runtime: runtime for runtime in RUNTIMES}
    if (runtime := known.get(name)) is None:
        raise ValueError(f"unknown runtime {name!r}; the runtimes are {', '.join(RUNTIMES)}")
    needed = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "pt2": ()}
    quantiser = ("nncf",) if runtime == "openvino-int8" else ()
    for package in needed[_FORMAT_OF.get(runtime, "pt2")] + quantiser:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{runtime} needs {package}: pip install 'cnnmod[deploy]'") from error
    return runtime

"""export: a network as a file that a runtime runs fast, checked against eager PyTorch before it is kept."""

import logging
import os
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnmod.deploy.export_report import ExportReport
from cnnmod.deploy.exportable import not_exportable
from cnnmod.deploy.graph import SUFFIXES, Format, write
from cnnmod.deploy.lower import FORMS, fold, lower
from cnnmod.deploy.parity import Run, check_agreement, check_parity, tied
from cnnmod.deploy.quantize import quantize
from cnnmod.deploy.runtimes import Runtime, check_runtime, load
from cnnmod.deploy.weights import check_finite
from cnnmod.method.bare import check_bare
from cnnmod.method.convert import mod_blocks
from cnnmod.records.files import check_writable, replace

logger = logging.getLogger("cnnmod")
_RUNTIME_OF: dict[Format, Runtime] = {"onnx": "onnxruntime", "openvino": "openvino", "pt2": "pt2"}
_INT8_RUNTIME_OF: dict[Format, Runtime] = {"onnx": "onnxruntime-int8", "openvino": "openvino-int8"}
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2


def export(
    model: nn.Module,
    example: Tensor,
    path: str | os.PathLike[str],
    *,
    format: Format = "onnx",  # noqa: A002  what it is
    dynamic_batch: bool = True,
    half: bool = False,
    int8: Tensor | None = None,
) -> ExportReport:
    """Write a network as a file for a runtime, its MoD blocks in the form that is fastest there.

    The file is run in its runtime, and its outputs and selected channels are compared with eager PyTorch's: on random
    images, a black one, and with importance scores that tie. Only then it is put in place.

    Args:
        model: Any network, with MoD blocks or without; it stays as it is. It is exported in evaluation mode, a
            segmentation network without its auxiliary head. Of a detector, give `model.backbone`.
        example: Images (N, C, H, W), float32; the file takes this size.
        path: The file, ending in .onnx, .xml (OpenVINO writes .bin beside it) or .pt2.
        format: `"onnx"`, `"openvino"` or `"pt2"` (torch.export).
        dynamic_batch: Whether the file takes any number of images, or N.
        half: Store weights in 16 bits; arithmetic stays in float32.
        int8: Real images (N, C, H, W), float32, prepared as for training; without a dynamic batch a multiple of the
            example's. The network is quantised to INT8, calibrated on them, its channel selectors left in float.
            The float file is checked first. An INT8 file cannot equal it: `report.int8` says how nearly it does,
            and none is refused. For `"onnx"` and `"openvino"`.

    Raises:
        ValueError: An unknown format; an example, images or a path that do not fit; a network that cannot be exported
            (with the layer that cannot), or a file that computes something else (with the input's seed).
        ModuleNotFoundError: The runtime is not installed, with the extra that brings it.
        OSError: The file cannot be written.

    Examples:
        >>> import cnnmod, tempfile, timm, torch
        >>> model = cnnmod.convert_(timm.create_model("resnet18")).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export(model, torch.rand(1, 3, 64, 64), f"{folder}/resnet18_mod.onnx")
        >>> report.operators["TopK"], report.largest_error < 1e-4
        (4, True)
    """
    path = Path(path)
    _check(model, example, path, format, half)
    if int8 is not None:
        _check_int8(int8, example, format, half, 1 if dynamic_batch else len(example))
    runtime = _RUNTIME_OF[format]
    if any(module.training for module in model.modules()):
        logger.warning("the network is in training mode; it is exported in evaluation mode")
    device = next(model.parameters(), example).device
    example = example.detach().to(device)
    traced = example[:1] if dynamic_batch else example
    try:
        lowered = lower(model, runtime, example=traced)
    except ValueError as error:
        raise not_exportable(model, example, error) from error
    reference, _ = fold(model, traced)
    if format != "pt2":  # which keeps the device
        lowered, reference, example = lowered.cpu(), reference.cpu(), example.cpu()
    batch_sizes = (1, 2, 5) if dynamic_batch else (len(example),)
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}.") as folder:
        beside = Path(folder) / path.name
        source = beside if int8 is None else Path(folder) / f"float-{path.name}"
        write(lowered, example, source, format, dynamic_batch=dynamic_batch, half=half)
        parity = check_parity(reference, _run(source, format), example.cpu(), batch_sizes)
        limit = _HALF_TOLERANCE if half else _TOLERANCE
        if not parity.largest_error <= limit:
            raise ValueError(
                f"the file computes something else than the network: in {parity.output!r} an error of "
                f"{parity.largest_error:.1e}, more than {limit:.0e}, on the input of seed {parity.seed}; nothing was "
                "written"
            )
        tied_agreement = 1.0
        if mod_blocks(model):
            other = Path(folder) / f"tied-{path.name}"
            write(tied(lowered), example, other, format, dynamic_batch=dynamic_batch)
            found = check_parity(tied(reference), _run(other, format), example.cpu(), batch_sizes)
            tied_agreement = found.selection_agreement
        agreement = None
        if int8 is not None:
            quantize(source, beside, int8, format)
            images = int8.detach().cpu().split(32 if dynamic_batch else len(example))
            agreement = check_agreement(reference, _run(beside, format), images)
        files = [file for file in Path(folder).iterdir() if file.stem == path.stem]
        report = ExportReport(
            path=path,
            format=format,
            form=FORMS[runtime].__name__ if mod_blocks(model) else None,
            opset=_opset(beside) if format == "onnx" else None,
            versions={name: version(name) for name in ("torch", *_packages(format, int8 is not None))},
            operators=_operators(beside, format),
            file_bytes=sum(file.stat().st_size for file in files),
            weight_bytes=sum(4 * parameter.numel() for parameter in lowered.parameters()),
            largest_error=parity.largest_error,
            selection_agreement=parity.selection_agreement,
            tied_agreement=tied_agreement,
            int8=agreement,
        )
        for file in sorted(files, key=lambda file: file.name == path.name):  # the one that is opened comes last
            replace(file, path.with_name(file.name))
    return report


def _check(model: nn.Module, example: Tensor, path: Path, kind: str, half: bool) -> None:
    if kind not in SUFFIXES:
        raise ValueError(f"unknown format {kind!r}; the formats are {', '.join(SUFFIXES)}")
    check_bare(model)
    check_runtime(_RUNTIME_OF[kind])
    if path.suffix != SUFFIXES[kind]:
        raise ValueError(f"a file of format {kind!r} ends in {SUFFIXES[kind]}; {str(path)!r} does not")
    if half and kind == "pt2":
        raise ValueError("half stores weights in 16 bits in ONNX and OpenVINO files; torch.export has no such files")
    _check_images("example", example, None)
    floats = (p.dtype for p in model.parameters() if p.is_floating_point())
    if wrong := next((dtype for dtype in floats if dtype != torch.float32), None):
        raise ValueError(f"the network must be in float32, not {wrong}; `half` stores the file's weights in 16 bits")
    check_finite(model)
    check_writable(path)


def _check_int8(images: Tensor, example: Tensor, kind: Format, half: bool, multiple: int) -> None:
    if kind == "pt2":
        raise ValueError("int8 makes ONNX and OpenVINO files; torch.export has no such files")
    if half:
        raise ValueError("half stores weights in 16 bits and int8 in 8; give one of them")
    check_runtime(_INT8_RUNTIME_OF[kind])
    _check_images("int8", images, example.shape[1:])
    if len(images) % multiple:
        raise ValueError(f"int8 must be a multiple of the {multiple} images that the file takes, not {len(images)}")


def _check_images(name: str, images: Tensor, shape: torch.Size | None) -> None:
    wanted = f"{name} must be images (N, {'C, H, W' if shape is None else ', '.join(map(str, shape))}) in float32"
    if not isinstance(images, Tensor):
        raise ValueError(f"{wanted}, not {type(images).__name__}")
    if images.ndim != 4 or images.shape[1:] != (shape or images.shape[1:]) or images.dtype != torch.float32:
        raise ValueError(f"{wanted}, not {images.dtype} {tuple(images.shape)}")
    if not images.numel():
        raise ValueError(f"{wanted}, not {images.dtype} {tuple(images.shape)}, which holds none")
    if images.is_meta or images.layout is not torch.strided:
        raise ValueError(f"{name} must be images with values, not a {'meta' if images.is_meta else 'sparse'} tensor")
    if not images.isfinite().all():
        raise ValueError(f"{name} has images with values that are not finite")


def _run(path: Path, kind: Format) -> Run:
    return load(path, _RUNTIME_OF[kind], torch.get_num_threads(), selected=True).run


def _opset(path: Path) -> int:
    import onnx

    return onnx.load(path, load_external_data=False).opset_import[0].version


def _packages(kind: Format, int8: bool) -> tuple[str, ...]:
    quantiser = ("nncf",) if int8 and kind == "openvino" else ()
    return {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino"), "pt2": ()}[kind] + quantiser


def _operators(path: Path, kind: Format) -> dict[str, int]:
    if kind == "onnx":
        import onnx

        names = [node.op_type for node in onnx.load(path).graph.node]
    elif kind == "openvino":
        import openvino

        ops = openvino.Core().read_model(path).get_ops()
        names = [op.get_type_name() for op in ops if op.get_type_name() not in ("Constant", "Parameter", "Result")]
    else:
        nodes = torch.export.load(path).graph.nodes
        names = [str(node.target) for node in nodes if node.op == "call_function"]
    return dict(Counter(names).most_common())

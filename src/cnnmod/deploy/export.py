"""export: a network as a file that a runtime runs fast, checked against eager PyTorch before it is kept."""

import logging
import os
import tempfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnmod.deploy.export_report import ExportReport
from cnnmod.deploy.exportable import not_exportable
from cnnmod.deploy.lower import fold, lower
from cnnmod.deploy.parity import Run, check_agreement, check_parity, tied
from cnnmod.deploy.targets.table import file_targets, find_format
from cnnmod.deploy.targets.target import INT8, FileTarget
from cnnmod.deploy.weights import check_finite
from cnnmod.method.bare import check_bare
from cnnmod.method.convert import mod_blocks
from cnnmod.records.files import check_writable, replace

logger = logging.getLogger("cnnmod")
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2


def export(
    model: nn.Module,
    example: Tensor,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002  what it is
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
        format: `"onnx"`, `"openvino"`, `"pt2"` (torch.export), or that of a registered target; `None`: what the path's
            ending says.
        dynamic_batch: Whether the file takes any number of images, or N.
        half: Store weights in 16 bits; arithmetic stays in float32.
        int8: Real images (N, C, H, W), float32, prepared as for training; without a dynamic batch a multiple of the
            example's. The network is quantized to INT8, calibrated on them, its channel selectors left in float.
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
    target = _target_for(path) if format is None else find_format(format)
    _check(model, example, path, target, half)
    if int8 is not None:
        _check_int8(int8, example, target, half, 1 if dynamic_batch else len(example))
    if any(module.training for module in model.modules()):
        logger.warning("the network is in training mode; it is exported in evaluation mode")
    device = next(model.parameters(), example).device
    example = example.detach().to(device)
    traced = example[:1] if dynamic_batch else example
    try:
        lowered = lower(model, target.name, example=traced)
    except ValueError as error:
        raise not_exportable(model, example, error) from error
    reference, _ = fold(model, traced)
    if not target.in_torch:  # which keeps the device
        lowered, reference, example = lowered.cpu(), reference.cpu(), example.cpu()
    batch_sizes = (1, 2, 5) if dynamic_batch else (len(example),)
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}.") as folder:
        beside = Path(folder) / path.name
        source = beside if int8 is None else Path(folder) / f"float-{path.name}"
        target.write(lowered, example, source, dynamic_batch=dynamic_batch, half=half)
        parity = check_parity(reference, _run(source, target), example.cpu(), batch_sizes)
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
            target.write(tied(lowered), example, other, dynamic_batch=dynamic_batch)
            of_ties = check_parity(tied(reference), _run(other, target), example.cpu(), batch_sizes)
            tied_agreement = of_ties.selection_agreement
        agreement = None
        if int8 is not None:
            target.quantize(source, beside, int8)
            images = int8.detach().cpu().split(32 if dynamic_batch else len(example))
            agreement = check_agreement(reference, _run(beside, target), images)
        files = [file for file in Path(folder).iterdir() if file.stem == path.stem]
        report = ExportReport(
            path=path,
            format=target.format,
            form=", ".join(sorted({type(block).__name__ for block in mod_blocks(lowered).values()})) or None,
            opset=target.opset(beside),
            versions=_versions(target, int8 is not None),
            operators=target.operators(beside),
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


def _target_for(path: Path) -> FileTarget:
    """The target whose files end as this one does."""
    endings = {target.suffix: target for target in file_targets()}
    if path.suffix not in endings:
        raise ValueError(f"a file to export ends in {', '.join(endings)}; {str(path)!r} does not")
    return endings[path.suffix]


def _check(model: nn.Module, example: Tensor, path: Path, target: FileTarget, half: bool) -> None:
    check_bare(model)
    target.check_installed()
    if path.suffix != target.suffix:
        raise ValueError(f"a file of format {target.format!r} ends in {target.suffix}; {str(path)!r} does not")
    if half and not target.stores_half:
        formats = ", ".join(repr(other.format) for other in file_targets() if other.stores_half)
        raise ValueError(f"half stores weights in 16 bits; {target.format!r} cannot, but {formats} can")
    _check_images("example", example, None)
    floats = (p.dtype for p in model.parameters() if p.is_floating_point())
    if wrong := next((dtype for dtype in floats if dtype != torch.float32), None):
        raise ValueError(f"the network must be in float32, not {wrong}; `half` stores the file's weights in 16 bits")
    check_finite(model)
    check_writable(path)


def _check_int8(images: Tensor, example: Tensor, target: FileTarget, half: bool, multiple: int) -> None:
    if INT8 not in target.precisions:
        formats = ", ".join(repr(other.format) for other in file_targets() if INT8 in other.precisions)
        raise ValueError(f"the format {target.format!r} has no INT8; those that have are {formats}")
    if half:
        raise ValueError("half stores weights in 16 bits and int8 in 8; give one of them")
    target.check_installed(INT8)
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


def _run(path: Path, target: FileTarget) -> Run:
    return target.load(path, torch.get_num_threads(), selected=True).run


def _versions(target: FileTarget, int8: bool) -> dict[str, str]:
    """Of what wrote and checked the file. A package may be called something else than what it installs."""
    modules = ("torch", *target.packages, *(target.packages_int8 if int8 else ()))
    distributions = packages_distributions()
    return {name: version(distributions.get(name, [name])[0]) for name in modules}

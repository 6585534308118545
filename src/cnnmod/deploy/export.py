"""`export(model, example, path)`: write a network as a file for a runtime, and check it against eager PyTorch."""

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnmod.deploy.description import Description, described
from cnnmod.deploy.export_report import ExportReport
from cnnmod.deploy.exportable import not_exportable
from cnnmod.deploy.lower import fold, lower
from cnnmod.deploy.outputs import named_outputs
from cnnmod.deploy.parity import RunFile, check_agreement, check_parity, with_tied_scores
from cnnmod.deploy.targets.table import file_targets, find_format
from cnnmod.deploy.targets.target import INT8, FileTarget
from cnnmod.deploy.weights import check_finite
from cnnmod.method.convert import mod_blocks
from cnnmod.method.trace import meta_forward
from cnnmod.method.unwrapped import check_unwrapped
from cnnmod.records.files import check_writable, replace

logger = logging.getLogger("cnnmod")
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2


def export(
    model: nn.Module,
    example: Tensor,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    dynamic_batch: bool = True,
    half: bool = False,
    int8: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: bool = False,
) -> ExportReport:
    """Write a network as a file for a runtime. Its MoD blocks have the form that is fastest in this runtime.

    Before the file is moved to `path`, it is run in its runtime. Its outputs and selected channels are compared with
    eager PyTorch on random images and on a black image. Export also compares a copy of the network in which importance
    scores are equal in groups, to verify tie-breaking.

    Args:
        model: Any network, with or without MoD blocks. It is not changed. It is exported in evaluation mode. A
            segmentation network is exported without its auxiliary head. For a detector, pass `model.backbone`.
        example: Images (N, C, H, W), float32. The file takes images of this size.
        path: The file to write, with the suffix .onnx, .xml (OpenVINO also writes a .bin file) or .pt2.
        format: `"onnx"`, `"openvino"`, `"pt2"` (torch.export), or the format of a registered target. `None` selects the
            format by the suffix of the path.
        dynamic_batch: Whether the file takes any batch size. Otherwise it takes batches of N images.
        half: Store weights in 16 bits. Arithmetic stays in float32.
        int8: Real images (N, C, H, W), float32, preprocessed as for training. The network is quantized to INT8 and
            calibrated on them; its channel selectors stay in float. If `dynamic_batch` is false, the number of images
            must be a multiple of the example's. The float file is checked first. The INT8 file is always kept:
            `report.int8` says how closely it agrees with the network. Supported for `"onnx"` and `"openvino"`.
        mean: The mean of each channel with which the images were normalized, for pixel values from 0 to 1. ONNX and
            OpenVINO files hold it as metadata.
        std: The standard deviation of each channel, as `mean`.
        classes: The class names, in the order of the network's outputs. ONNX and OpenVINO files hold them as metadata.
        preprocessing: Whether the file takes pixels (N, H, W, C) in uint8, as an image decoder returns them, and
            normalizes them with `mean` and `std`. The pixels must have the size of the example. Supported for `"onnx"`
            and `"openvino"`.

    Returns:
        A report of the file and its agreement with the network.

    Raises:
        ValueError: If the format is unknown, the example, images or path are not valid, the network cannot be exported
            (the error names the layer), or the outputs of the file differ (the error names the seed of the input).
        ModuleNotFoundError: If the runtime is not installed. The error names the extra that installs it.
        OSError: If the file cannot be written.

    Examples:
        >>> import cnnmod, tempfile, timm, torch
        >>> model = cnnmod.convert_(timm.create_model("resnet18", layers=(2, 2, 1, 1))).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export(model, torch.rand(1, 3, 64, 64), f"{folder}/network.onnx")
        >>> report.operators["TopK"], report.largest_error < 1e-4
        (2, True)
    """
    path = Path(path)
    target = _target_for(path) if format is None else find_format(format)
    _check(model, example, path, target, half)
    if preprocessing:
        _check_supports("preprocessing", target, lambda target: target.describes)
    about = described(example, mean, std, classes, preprocessing)
    if classes is not None:
        _check_classes(model, example, len(classes))
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
    reference = fold(model, traced)
    if not target.in_torch:  # a target in PyTorch keeps the device
        lowered, reference, example = lowered.cpu(), reference.cpu(), example.cpu()
    batch_sizes = (1, 2, 5) if dynamic_batch else (len(example),)
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}.") as folder:
        final_file = Path(folder) / path.name
        float_file = final_file if int8 is None else Path(folder) / f"float-{path.name}"
        if int8 is None:
            target.write(lowered, example, float_file, dynamic_batch=dynamic_batch, half=half)
        else:
            target.write_for_int8(lowered, example, float_file, dynamic_batch=dynamic_batch)
            target.quantize(float_file, final_file, int8)  # before the normalization of pixels, which stays in float32
        if target.describes:
            for file in {float_file, final_file}:
                target.describe_(file, about)
        parity = check_parity(reference, _run(float_file, target, about), example.cpu(), batch_sizes, about.closest)
        limit = _HALF_TOLERANCE if half else _TOLERANCE
        if not parity.largest_error <= limit:
            raise ValueError(
                f"the file does not compute the same as the network: the output {parity.output!r} has an error of "
                f"{parity.largest_error:.1e} on the input of seed {parity.seed}, and at most {limit:.0e} is accepted; "
                "nothing was written"
            )
        tied_agreement = None
        selects = any(block.config.select == "learned" for block in mod_blocks(model).values())
        if selects:
            tied_file = Path(folder) / f"tied-{path.name}"
            target.write(with_tied_scores(lowered), example, tied_file, dynamic_batch=dynamic_batch)
            tied_parity = check_parity(with_tied_scores(reference), _run(tied_file, target), example.cpu(), batch_sizes)
            tied_agreement = tied_parity.selection_agreement
        agreement = None
        if int8 is not None:
            images = about.closest(int8.detach().cpu()).split(32 if dynamic_batch else len(example))
            agreement = check_agreement(reference, _run(final_file, target, about), images)
        files = [file for file in Path(folder).iterdir() if file.stem == path.stem]
        report = ExportReport(
            path=path,
            format=target.format,
            form=", ".join(sorted({type(block).__name__ for block in mod_blocks(lowered).values()})) or None,
            opset=target.opset(final_file),
            versions=_versions(target, int8 is not None),
            operators=target.operators(final_file),
            file_bytes=sum(file.stat().st_size for file in files),
            weight_bytes=sum(4 * parameter.numel() for parameter in lowered.parameters()),
            largest_error=parity.largest_error,
            selection_agreement=parity.selection_agreement if selects else None,
            tied_agreement=tied_agreement,
            int8=agreement,
            metadata=about.metadata() if target.describes else {},
        )
        for file in sorted(files, key=lambda file: file.name == path.name):  # the file that users open is moved last
            replace(file, path.with_name(file.name))
    return report


def _target_for(path: Path) -> FileTarget:
    """Return the target whose files have this suffix."""
    targets = {target.suffix: target for target in file_targets()}
    if path.suffix not in targets:
        raise ValueError(f"the suffix of the file must be one of {', '.join(targets)}, not {str(path)!r}")
    return targets[path.suffix]


def _check(model: nn.Module, example: Tensor, path: Path, target: FileTarget, half: bool) -> None:
    check_unwrapped(model)
    target.check_installed()
    if path.suffix != target.suffix:
        raise ValueError(f"the suffix of a file in format {target.format!r} must be {target.suffix}, not {str(path)!r}")
    if half:
        _check_supports("half", target, lambda target: target.stores_half)
    _check_images("example", example, None)
    dtypes = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    if other_dtype := next((dtype for dtype in dtypes if dtype != torch.float32), None):
        raise ValueError(f"the network must be in float32, not {other_dtype}; `half` stores weights in 16 bits")
    check_finite(model)
    check_writable(path)


def _check_int8(images: Tensor, example: Tensor, target: FileTarget, half: bool, multiple: int) -> None:
    _check_supports("int8", target, lambda target: INT8 in target.precisions)
    if half:
        raise ValueError("half and int8 cannot be combined: half stores weights in 16 bits, int8 in 8")
    target.check_installed(INT8)
    _check_images("int8", images, example.shape[1:])
    if len(images) % multiple:
        raise ValueError(
            f"the number of int8 images must be a multiple of the file's batch size {multiple}, not {len(images)}"
        )


def _check_supports(option: str, target: FileTarget, supports: Callable[[FileTarget], bool]) -> None:
    if not supports(target):
        formats = ", ".join(repr(other.format) for other in file_targets() if supports(other))
        raise ValueError(f"{option} is supported for {formats}, not for {target.format!r}")


def _check_images(name: str, images: Tensor, shape: torch.Size | None) -> None:
    requirement = f"{name} must be images (N, {'C, H, W' if shape is None else ', '.join(map(str, shape))}) in float32"
    if not isinstance(images, Tensor):
        raise ValueError(f"{requirement}, not {type(images).__name__}")
    if images.ndim != 4 or images.shape[1:] != (shape or images.shape[1:]) or images.dtype != torch.float32:
        raise ValueError(f"{requirement}, not {images.dtype} {tuple(images.shape)}")
    if not images.numel():
        raise ValueError(f"{requirement}, not {images.dtype} {tuple(images.shape)}, which is empty")
    if images.is_meta or images.layout is not torch.strided:
        raise ValueError(f"{name} must be images with values, not a {'meta' if images.is_meta else 'sparse'} tensor")
    if not images.isfinite().all():
        raise ValueError(f"{name} has values that are not finite")


def _check_classes(model: nn.Module, example: Tensor, count: int) -> None:
    """Raise `ValueError` if no output of the network has this number of classes."""
    try:
        outputs = named_outputs(meta_forward(model, example))
    except ValueError:  # the network does not run on the meta device
        return
    if not any(value.ndim > 1 and value.shape[1] == count for value in outputs.values()):
        shapes = ", ".join(f"{name} of shape {tuple(value.shape)}" for name, value in outputs.items())
        raise ValueError(f"classes has {count} names, but the network returns {shapes}")


def _run(path: Path, target: FileTarget, about: Description | None = None) -> RunFile:
    run = target.load(path, torch.get_num_threads(), selected=True).run
    return run if about is None else lambda images_NCHW: run(about.input_of(images_NCHW))


def _versions(target: FileTarget, int8: bool) -> dict[str, str]:
    """Return the versions of the packages that wrote and checked the file."""
    modules = ("torch", *target.packages, *(target.packages_int8 if int8 else ()))
    return {name: _version(name) for name in modules}


def _version(module: str) -> str:
    """Return the version of the package that installs a module. The slow lookup is used only if their names differ."""
    try:
        return version(module)
    except PackageNotFoundError:
        return version(packages_distributions().get(module, [module])[0])

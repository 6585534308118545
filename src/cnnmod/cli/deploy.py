"""export: a file that a runtime runs fast."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from cnnmod.cli.app import Json, app, console, print_json
from cnnmod.deploy.export import export as export_network
from cnnmod.method.trace import example_for
from cnnmod.networks import build, load
from cnnmod.report.progress import progress_bars
from cnnmod.training.data import calibration_images, open_data
from cnnmod.training.folder import recipe_of


@app.command
def export(
    network: Annotated[str, tyro.conf.Positional],
    out: Path,
    format: str | None = None,  # noqa: A002  the option's name
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    half: bool = False,
    int8: bool = False,
    data: str | None = None,
    as_json: Json = False,
) -> None:
    """Write a network as a file for ONNX Runtime, OpenVINO or torch.export, in the form that is fastest there; it is
    compared with eager PyTorch before it is kept.

    Example: cnnmod export runs/fast/best.safetensors --out network.onnx

    Example: cnnmod export resnet75_mod --out resnet75_mod.xml --size 224 224

    Example: cnnmod export runs/fast/best.safetensors --out network_int8.onnx --int8 --data data/cifar10

    Args:
        network: A checkpoint that holds how its network is built, or a name as `cnnmod info` takes it (fresh weights).
        out: The file, ending in .onnx, .xml or .pt2.
        format: `onnx`, `openvino` or `pt2`; what the ending of the file says if not given.
        batch: Fix the number of images; any number if not given.
        size: Height and width in pixels; if not given what it was tested at, what it states, or 224.
        half: Store weights in 16 bits.
        int8: Quantize a checkpoint of `cnnmod train` to INT8, calibrated on 256 training images; the channel selectors
            stay in float.
        data: Where these images are, as for `cnnmod train`.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"--batch must be ≥ 1, not {batch}")
    if size is not None and min(size) < 1:
        raise ValueError(f"--size must be ≥ 1, not {size[0]} {size[1]}")
    if int8 != (data is not None):
        raise ValueError("--int8 and --data go together: INT8 is calibrated on images")
    if int8 and size is not None:
        raise ValueError("--size does not go with --int8: the file takes images of the size of those in --data")
    if int8 and not network.endswith(".safetensors"):
        raise ValueError(f"--int8 quantizes a trained network; {network} is no checkpoint")
    model = (load(Path(network)) if network.endswith(".safetensors") else build(network)).eval()
    if data is None:
        calibration = None
        _, channels, height, width = example_for(model).shape
        images = torch.rand(batch or 1, channels, *(size or _trained_size(Path(network)) or (height, width)))
    else:
        calibration = _calibration_images(Path(network), data, batch or 1)
        images = calibration[: batch or 1]
    with console.status(f"writing and checking {out}"):
        report = export_network(
            model, images, out, format=format, dynamic_batch=batch is None, half=half, int8=calibration
        )
    if as_json:
        values: dict[str, Any] = dataclasses.asdict(report)
        print_json(values | {"path": str(report.path)})
    else:
        print(report)


def _trained_size(checkpoint: Path) -> tuple[int, int] | None:
    """What it was tested at, if it is a checkpoint in a run's folder."""
    return (
        recipe_of(checkpoint).images.size
        if (checkpoint.parent / "run.json").is_file() and checkpoint.is_file()
        else None
    )


def _calibration_images(checkpoint: Path, data: str, multiple: int) -> Tensor:
    how = recipe_of(checkpoint)
    with progress_bars() as progress:
        found = calibration_images(open_data(data, how, progress=progress))
    if len(found) < multiple:
        raise ValueError(f"--batch {multiple} is more than the {len(found)} images that INT8 is calibrated on")
    return found[: len(found) // multiple * multiple]

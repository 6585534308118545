"""The subcommand `export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cnnmod.cli.app import Json, Network, Size, Weights, console, height_and_width, opened, print_json

if TYPE_CHECKING:
    from torch import Tensor, nn


def export(
    name: Annotated[str | None, tyro.conf.Positional] = None,
    *,
    out: Path,
    network: Network = None,
    weights: Weights = None,
    format: str | None = None,
    batch: int | None = None,
    size: Size = (),
    half: bool = False,
    int8: bool = False,
    data: str | None = None,
    with_preprocessing: bool = False,
    as_json: Json = False,
) -> None:
    """Write a network as a file for ONNX Runtime, OpenVINO or torch.export. MoD blocks get the fastest form for this
    runtime. The file is compared with eager PyTorch before it is kept.

    Example: cnnmod export runs/fast/best.safetensors --out network.onnx

    Example: cnnmod export resnet75_mod --out resnet75_mod.xml --size 224

    Example: cnnmod export runs/own/best.safetensors --network my_net:make --out network.onnx

    Example: cnnmod export runs/fast/best.safetensors --out network_int8.onnx --int8 --data data/cifar10

    Args:
        name: A checkpoint that says how its network is built, or a name as in `cnnmod info` (initial weights).
        out: The file to write, with the suffix .onnx, .xml or .pt2.
        format: `onnx`, `openvino` or `pt2`. Default: the format of the suffix.
        batch: The fixed batch size. Default: any batch size.
        half: Store weights in 16 bits.
        int8: Quantize a checkpoint of `cnnmod train` to INT8, calibrated on 256 training images. The channel selectors
            stay in float.
        data: The data set with the training images, as in `cnnmod train`.
        with_preprocessing: Write a file that takes pixels (N, H, W, C) in 8 bits and normalizes them itself. For .onnx
            and .xml.
    """
    import torch

    from cnnmod.deploy.export import export as export_network
    from cnnmod.networks.own import is_checkpoint

    if batch is not None and batch < 1:
        raise ValueError(f"--batch must be ≥ 1, not {batch}")
    height_and_width(size)
    if int8 != (data is not None):
        raise ValueError("--int8 and --data must be given together: INT8 is calibrated on images")
    if int8 and size:
        raise ValueError("--size and --int8 cannot be combined: the file takes images of the size in --data")
    if int8 and (name is None or not is_checkpoint(name)):
        raise ValueError(f"--int8 takes a checkpoint (.safetensors) of a trained network, not {name or network}")
    model, example = opened(name, network, weights, size)
    model = model.eval()
    if data is None or name is None:
        calibration = None
        images = torch.rand(batch or 1, *example.shape[1:])
    else:
        calibration = _calibration_images(Path(name), data, batch or 1)
        images = calibration[: batch or 1]
    about = _described(model, None if name is None else Path(name), images.shape[1])
    if with_preprocessing and "mean" not in about:
        raise ValueError(
            "--with-preprocessing needs the mean and standard deviation of the training images; they are known for a "
            f"checkpoint in its run folder and for timm's networks, not for {name or network}"
        )
    with console.status(f"writing and checking {out}"):
        report = export_network(
            model,
            images,
            out,
            format=format,
            dynamic_batch=batch is None,
            half=half,
            int8=calibration,
            preprocessing=with_preprocessing,
            **about,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        print(report)


def _described(model: "nn.Module", checkpoint: Path | None, channels: int) -> dict[str, Any]:
    """Return `mean`, `std` and `classes` as `export` takes them, as far as they are known.

    A checkpoint in a run folder has those of its run. Other networks have those that timm gives them.
    """
    from cnnmod.networks.run_file import trained_on

    images = None if checkpoint is None else trained_on(checkpoint)
    if images is not None:
        return {"mean": images.mean, "std": images.std, "classes": images.classes}
    settings = getattr(model, "pretrained_cfg", None) or {}
    mean, std = settings.get("mean") or (), settings.get("std") or ()
    return {"mean": mean, "std": std} if len(mean) == len(std) == channels else {}


def _calibration_images(checkpoint: Path, data: str, multiple: int) -> "Tensor":
    from cnnmod.report.progress import progress_bars
    from cnnmod.training.data import calibration_images, open_data
    from cnnmod.training.folder import recipe_of

    recipe = recipe_of(checkpoint)
    with progress_bars() as progress:
        images = calibration_images(open_data(data, recipe, progress=progress))
    if len(images) < multiple:
        raise ValueError(f"--batch must be ≤ {len(images)}, the number of calibration images of INT8, not {multiple}")
    return images[: len(images) // multiple * multiple]

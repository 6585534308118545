"""Measure trained networks in INT8 and bfloat16: accuracy on all test images of CIFAR-10, and the selected channels.

For each network that `cifar10.sh` trained: top-1 in eager PyTorch, in ONNX Runtime (float32, INT8) and in OpenVINO
(float32, bfloat16, INT8); for how many images the class is the same as in eager PyTorch, and how many of the selected
channels are the same. Needs CIFAR-10 as Parquet, in ../shared/data or $CNNMOD_DATA.

    python benchmarks/int8.py [FOLDER]    # writes results/int8.json; half an hour on two cores
"""

import dataclasses
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.lower import lower
from cnnmod.deploy.parity import RunFile, check_agreement
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.targets.table import runtimes
from cnnmod.deploy.targets.target import INT8, FileTarget
from cnnmod.method.convert import mod_blocks
from cnnmod.networks import load as load_network
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars
from cnnmod.training.data import calibration_images, open_data
from cnnmod.training.folder import read_run

RESULT = Path(__file__).parent / "results" / "int8.json"
RUNS = Path(__file__).parent / "runs" / "cifar10" / "rows"
BATCH = 250


def runs_of(model: nn.Module, calibration: Tensor, folder: Path) -> dict[str, RunFile]:
    """Return the network in each runtime that supports INT8, in all its precisions, with its selected channels."""
    runs: dict[str, RunFile] = {}
    for name, (target, precision) in runtimes().items():
        if isinstance(target, FileTarget) and INT8 in target.precisions:
            path, example = folder / f"{INT8 if precision == INT8 else 'float'}{target.suffix}", calibration[:1]
            lowered = lower(model, target.name, example=example)
            if precision == INT8:
                source = folder / f"source{target.suffix}"
                target.write_for_int8(lowered, example, source, dynamic_batch=True)
                target.quantize(source, path, calibration)
            elif not path.exists():
                target.write(lowered, example, path, dynamic_batch=True)
            runs[name] = target.load(path, torch.get_num_threads(), precision, selected=True).run
    return runs


def top1_pct(classes: Tensor, labels: Tensor) -> float:
    """Return the share of correct classes in %."""
    return round(100 * (classes == labels).double().mean().item(), 4)


def measured(model: nn.Module, run: RunFile, images_NCHW: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the accuracy in a runtime, and its agreement with eager PyTorch."""
    classes: list[Tensor] = []

    def run_and_keep(batch_NCHW: Tensor) -> dict[str, Tensor]:
        outputs = run(batch_NCHW)
        (logits,) = (value for name, value in outputs.items() if not name.endswith(SELECTED))
        classes.append(logits.argmax(1))
        return outputs

    agreement = check_agreement(model, run_and_keep, images_NCHW.split(BATCH))
    assert agreement.top1 is not None
    selection = None
    if mod_blocks(model):
        selection = {
            "selected_pct": round(100 * agreement.selection, 4),
            "selected_in_order_pct": round(100 * agreement.selection_in_order, 4),
        }
    return {
        "top1_pct": top1_pct(torch.cat(classes), labels),
        "same_class_pct": round(100 * agreement.top1, 4),
        "selection": selection,
    }


def main() -> None:
    """Measure all networks of the folder, and write the result file after each."""
    place = Path(os.environ.get("CNNMOD_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10"
    if not place.is_dir():
        sys.exit(f"{place} does not exist: set CNNMOD_DATA to the folder that contains cifar10")
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    checkpoints = sorted(folder.glob("*/best.safetensors"))
    if not checkpoints:
        sys.exit(f"no run in {folder} has a best.safetensors; benchmarks/cifar10.sh trains them")
    check_writable(RESULT)
    rows: list[dict[str, Any]] = []
    with progress_bars() as progress:
        data = open_data(place, read_run(checkpoints[0].parent).recipe, progress=progress)
        calibration = calibration_images(data)
        test = next(iter(data.test.batches([torch.arange(len(data.test))])))
        for done, checkpoint in enumerate(checkpoints, 1):
            progress("networks", done - 1, len(checkpoints))
            run, model = read_run(checkpoint.parent), load_network(checkpoint).eval()
            with tempfile.TemporaryDirectory() as files, torch.inference_mode():
                logits = torch.cat([model(batch_NCHW) for batch_NCHW in test.images.split(BATCH)])
                results: dict[str, Any] = {"eager": {"top1_pct": top1_pct(logits.argmax(1), test.labels)}}
                for runtime, file_run in runs_of(model, calibration, Path(files)).items():
                    results[runtime] = measured(model, file_run, test.images, test.labels)
            rows.append({"row": run.row, "seed": run.seed, "runtimes": results})
            content = {
                "provenance": dataclasses.asdict(Provenance.now(torch.device("cpu"), torch.get_num_threads())),
                "versions": {name: version(name) for name in ("onnx", "onnxruntime", "openvino", "nncf")},
                "recipe": run.recipe.to_dict(),
                "test_images": len(test.labels),
                "calibration_images": len(calibration),
                "networks": rows,
            }
            write_whole(RESULT, json.dumps(content, indent=1) + "\n")
            progress("networks", done, len(checkpoints))


if __name__ == "__main__":
    main()

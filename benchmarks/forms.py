"""Time ResNet75-MoD in several forms in each runtime, the paper's network and with candidates=4.

python benchmarks/forms.py    # 15 minutes on two idle cores; writes results/forms.json
"""

import dataclasses
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from cnnmod import MoDConfig, control_, mod_blocks
from cnnmod.deploy import onnx_file, openvino_file
from cnnmod.deploy.graph_forms import GraphForm, OnnxForm
from cnnmod.deploy.lower import fold, lower
from cnnmod.deploy.targets.table import file_targets, runtimes
from cnnmod.deploy.targets.target import FileTarget
from cnnmod.measure.timing import time_interleaved
from cnnmod.method.convert import swap_
from cnnmod.networks import build, build_mod
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars

RESULT = Path(__file__).parent / "results" / "forms.json"
RUNTIMES = ("onnxruntime", "openvino", "openvino-bf16")
ROUNDS = {1: 40, 8: 16}
CONFIGS = {"the paper's": MoDConfig(), "candidates=4": MoDConfig(candidates=4)}


class Concatenation(OnnxForm):
    """Add the result to a slice, and concatenate the slices."""

    def _fuse(self, x_NCHW: Tensor, y_NKHW: Tensor, index_NK: Tensor) -> Tensor:
        return torch.cat([x_NCHW[:, : self.k] + y_NKHW, x_NCHW[:, self.k :]], dim=1)


class FlatGather(OnnxForm):
    """Gather over images × channels."""

    def _gather(self, x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
        return GraphForm._gather(self, x_NCHW, index_NK)


class Product(OnnxForm):
    """Multiply with a one-hot matrix, channels last."""

    def _gather(self, x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
        images, channels, height, width = x_NCHW.shape
        place_NCK = (index_NK[:, None] == torch.arange(channels)[:, None]).float()
        selected = x_NCHW.permute(0, 2, 3, 1).reshape(images, height * width, channels) @ place_NCK
        return selected.reshape(images, height, width, self.k).permute(0, 3, 1, 2)


def written(
    form: type[GraphForm], model: nn.Module, images: Tensor, path: Path, target: FileTarget, whole: bool
) -> None:
    """Write the network in this form to a file.

    With `whole`, the target's own changes of the feature maps are left out: candidates in a tensor of their own (ONNX),
    the gather along the last axis (OpenVINO).
    """
    lowered = fold(model)
    swap_(lowered, {name: form(block) for name, block in mod_blocks(lowered).items()})
    if whole:
        with patch.object(onnx_file, "split_candidates_"), patch.object(openvino_file, "gather_channels_last_"):
            target.write(lowered, images, path, dynamic_batch=False)
    else:
        target.write(lowered, images, path, dynamic_batch=False)


FORMS: dict[str, tuple[type[GraphForm], bool]] = {
    "as exported": (OnnxForm, False),
    "planes of the whole map": (OnnxForm, True),
    "one gather over images × channels": (FlatGather, True),
    "slices concatenated": (Concatenation, True),
    "one-hot product": (Product, True),
}


def main() -> None:
    """Measure, and write the result file."""
    check_writable(RESULT)
    rows: list[dict[str, object]] = []
    dense = {"resnet50": build("resnet50"), "control": control_(build("resnet75_mod"))}
    mod = {name: build_mod("resnet75_mod", config) for name, config in CONFIGS.items()}
    variants = {f"{config}, {form}": (config, *FORMS[form]) for config in CONFIGS for form in FORMS}
    names = [*dense, *variants]
    targets = [target for target in file_targets() if target.name in RUNTIMES]
    with progress_bars() as bars, tempfile.TemporaryDirectory() as folder:
        for batch_size, rounds in ROUNDS.items():
            images = torch.rand(batch_size, 3, 224, 224)
            paths = {
                target: {name: Path(folder) / f"{number}{target.suffix}" for number, name in enumerate(names)}
                for target in targets
            }
            for number, name in enumerate(names, 1):
                for target, path in paths.items():
                    if name in dense:
                        target.write(lower(dense[name]), images, path[name], dynamic_batch=False)
                    else:
                        config, form, whole = variants[name]
                        written(form, mod[config], images, path[name], target, whole)
                bars(f"writing files, batch {batch_size}", number, len(names))
            for runtime in RUNTIMES:
                target, precision = runtimes()[runtime]
                assert isinstance(target, FileTarget)
                loaded = {
                    name: target.load(path, torch.get_num_threads(), precision) for name, path in paths[target].items()
                }
                done = iter(range(1, rounds + 3))
                times_ms = time_interleaved(
                    {name: partial(run, images) for name, run in loaded.items()},
                    rounds=rounds,
                    warmup=2,
                    progress=lambda: bars(f"{runtime}, batch {batch_size}", next(done), rounds + 2),  # noqa: B023  called at once
                )
                for name, times in times_ms.items():
                    over_control = [time / control for time, control in zip(times, times_ms["control"], strict=True)]
                    over_baseline = [
                        dense_time / time for time, dense_time in zip(times, times_ms["resnet50"], strict=True)
                    ]
                    rows.append(
                        {
                            "runtime": runtime,
                            "batch_size": batch_size,
                            "network": name,
                            "tax_pct": round(100 * (statistics.median(over_control) - 1), 1),
                            "speedup": round(statistics.median(over_baseline), 3),
                        }
                    )
                    print(rows[-1], flush=True)
    provenance = dataclasses.asdict(Provenance.now(torch.device("cpu"), torch.get_num_threads()))
    write_whole(RESULT, json.dumps({"provenance": provenance, "rounds": ROUNDS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

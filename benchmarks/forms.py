"""Which form of a MoD block a runtime runs fastest: ResNet75-MoD, the paper's and with candidates=4, in several forms.

python benchmarks/forms.py    # a quarter of an hour on two idle cores; writes results/forms.json
"""

import dataclasses
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnmod import MoDConfig, control_, mod_blocks
from cnnmod.deploy.forms import OnnxForm
from cnnmod.deploy.graph import SUFFIXES, write
from cnnmod.deploy.lower import lower
from cnnmod.deploy.runtimes import Runtime, load
from cnnmod.measure.timing import time_interleaved
from cnnmod.method.convert import swap_
from cnnmod.networks import build, build_mod
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars

RESULT = Path(__file__).parent / "results" / "forms.json"
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino", "openvino-bf16")
ROUNDS = {1: 40, 8: 12}
CONFIGS = {"the paper's": MoDConfig(), "candidates=4": MoDConfig(candidates=4)}


class Concatenation(OnnxForm):
    """The result added to a slice, and the slices concatenated."""

    def _fuse(self, x_NCHW: Tensor, y_NKHW: Tensor, index_NK: Tensor) -> Tensor:
        return torch.cat([x_NCHW[:, : self.k] + y_NKHW, x_NCHW[:, self.k :]], dim=1)


class Padding(OnnxForm):
    """The result padded with zeros to C channels."""

    def _fuse(self, x_NCHW: Tensor, y_NKHW: Tensor, index_NK: Tensor) -> Tensor:
        return x_NCHW + nn.functional.pad(y_NKHW, (0, 0, 0, 0, 0, self.channels - self.k))


class GatherND(OnnxForm):
    """Images and channels indexed together."""

    def _gather(self, x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
        return x_NCHW[torch.arange(x_NCHW.shape[0])[:, None], index_NK]


class Product(OnnxForm):
    """A product with a one-hot matrix, channels last."""

    def _gather(self, x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
        x_NCHW = x_NCHW[:, : self.pool]
        images, channels, height, width = x_NCHW.shape
        place_NCK = (index_NK[:, None] == torch.arange(channels)[:, None]).float()
        selected = x_NCHW.permute(0, 2, 3, 1).reshape(images, height * width, channels) @ place_NCK
        return selected.reshape(images, height, width, self.k).permute(0, 3, 1, 2)


class GatherFromSlice(OnnxForm):
    """The gather reads the candidates only, which are sliced off first."""

    def _gather(self, x_NCHW: Tensor, index_NK: Tensor) -> Tensor:
        image_N1 = torch.arange(x_NCHW.shape[0])[:, None]
        flat_index = (index_NK + self.pool * image_N1).flatten()
        return x_NCHW[:, : self.pool].flatten(0, 1).index_select(0, flat_index).unflatten(0, (-1, self.k))


FORMS = (OnnxForm, Concatenation, Padding, GatherND, Product, GatherFromSlice)


def networks() -> dict[str, nn.Module]:
    """Baseline and control, and the MoD networks in each form; all lowered."""
    made = {"resnet50": lower(build("resnet50"), "onnxruntime")}
    made["control"] = lower(control_(build("resnet75_mod")), "onnxruntime")
    for what, config in CONFIGS.items():
        for form in FORMS:
            if form is GatherFromSlice and config.candidates is None:
                continue
            model = lower(build_mod("resnet75_mod", config), "compile")
            swap_(model, {name: form(block) for name, block in mod_blocks(model).items()})
            made[f"{what}, {form.__name__}"] = model
    return made


def main() -> None:
    """Measure, and write the file."""
    check_writable(RESULT)
    rows: list[dict[str, object]] = []
    with progress_bars() as bars, tempfile.TemporaryDirectory() as folder:
        models = networks()
        for batch_size, rounds in ROUNDS.items():
            images = torch.rand(batch_size, 3, 224, 224)
            paths = {
                kind: {name: Path(folder) / f"{number}{SUFFIXES[kind]}" for number, name in enumerate(models)}
                for kind in ("onnx", "openvino")
            }
            for number, (name, model) in enumerate(models.items(), 1):
                for kind in ("onnx", "openvino"):
                    write(model, images, paths[kind][name], kind, dynamic_batch=False)
                bars(f"writing files, batch {batch_size}", number, len(models))
            for runtime in RUNTIMES:
                kind = "onnx" if runtime == "onnxruntime" else "openvino"
                loaded = {name: load(path, runtime, torch.get_num_threads()) for name, path in paths[kind].items()}
                done = iter(range(1, rounds + 3))
                times_ms = time_interleaved(
                    {name: partial(run, images) for name, run in loaded.items()},
                    rounds=rounds,
                    warmup=2,
                    progress=lambda: bars(f"{runtime}, batch {batch_size}", next(done), rounds + 2),  # noqa: B023  called at once
                )
                for name, times in times_ms.items():
                    over_control = [one / other for one, other in zip(times, times_ms["control"], strict=True)]
                    over_baseline = [other / one for one, other in zip(times, times_ms["resnet50"], strict=True)]
                    rows.append(
                        {
                            "runtime": runtime,
                            "batch_size": batch_size,
                            "network": name,
                            "tax_pct": round(100 * (statistics.median(over_control) - 1), 1),
                            "speedup": round(statistics.median(over_baseline), 3),
                        }
                    )
                    print(rows[-1])
    provenance = dataclasses.asdict(Provenance.now(torch.device("cpu"), torch.get_num_threads()))
    write_whole(RESULT, json.dumps({"provenance": provenance, "rounds": ROUNDS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

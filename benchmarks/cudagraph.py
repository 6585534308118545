"""Time CUDA graphs of ResNet50, ResNet50-, 75- and 86-MoD and their controls on a GPU (bfloat16, channels last).

Each network is captured with torch's own API for one batch size. The MoD blocks are measured with CUDA kernels and
with several operators. A replay launches all kernels at once, so the result shows how much of the MoD tax of eager
PyTorch is launch time.

    python benchmarks/cudagraph.py    # writes results/resnets-cudagraph.json
"""

import json
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import tyro
from torch import nn

import cnnmod
from cnnmod import MoDConfig, control_
from cnnmod.deploy.cuda.form import CudaForm
from cnnmod.networks import build, build_mod
from cnnmod.records.files import write_whole
from cnnmod.records.provenance import Provenance


def captured(model: nn.Module, x_NCHW: torch.Tensor) -> torch.cuda.CUDAGraph:
    """Capture one forward pass that reads its input from the memory of `x_NCHW`."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(3):
            model(x_NCHW)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.inference_mode():
        model(x_NCHW)
    return graph


def replay_ms(graph: torch.cuda.CUDAGraph, times: int) -> float:
    """Return the mean time of a replay in ms, over `times` consecutive replays, by the GPU's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / times


def cudagraph_table(result: dict[str, Any]) -> str:
    """Return a table with a row for each network and form, and a column for each batch size."""
    batches = list(dict.fromkeys(row["batch"] for row in result["measurements"]))
    times = {(row["network"], row["batch"]): row["times_ms"] for row in result["measurements"]}
    header = ["network", *(f"batch {batch}: ms" for batch in batches), *("speed-up" for _ in batches)]
    lines = [f"| {' | '.join(header)} |", f"|---{'|---:' * (len(header) - 1)}|"]
    for name in dict.fromkeys(row["network"] for row in result["measurements"]):
        measured = [times[name, batch] for batch in batches]
        ratios = [
            statistics.median(dense / own for dense, own in zip(times["resnet50", batch], of_batch, strict=True))
            for batch, of_batch in zip(batches, measured, strict=True)
        ]
        cells = [
            *(f"{statistics.median(of_batch):.3f}" for of_batch in measured),
            *(f"{ratio:.2f}" for ratio in ratios),
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    provenance = result["provenance"]
    rounds = len(result["measurements"][0]["times_ms"])
    lines.append(
        f"\nReplays of a CUDA graph, 3×224×224, bfloat16, channels last; {provenance['device']}, torch "
        f"{provenance['versions']['torch']}; medians of {rounds} interleaved rounds."
    )
    return "\n".join(lines)


def main(
    minutes: float = 2,
    batches: tuple[int, ...] = (1, 8, 64, 256),
    rounds: int = 15,
    out: Path = Path(__file__).parent / "results" / "resnets-cudagraph.json",
) -> None:
    """Measure, and write the result file after each batch size."""
    end = time.time() + 60 * minutes
    torch.backends.cudnn.benchmark = True
    rows: dict[str, nn.Module] = {}
    for name in ("resnet50", "resnet50_mod", "resnet75_mod", "resnet86_mod"):
        if name == "resnet50":
            rows[name] = build(name)
            continue
        rows[f"{name} control"] = control_(build(name))
        rows[f"{name} candidates=4"] = build_mod(name, MoDConfig(candidates=4))
        rows[name] = build(name)
    measurements: list[dict[str, object]] = []
    for batch in batches:
        x_NCHW = torch.rand(batch, 3, 224, 224, device="cuda", dtype=torch.bfloat16)
        x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        graphs: dict[str, torch.cuda.CUDAGraph] = {}
        for name, model in rows.items():
            model = model.to("cuda", torch.bfloat16).to(memory_format=torch.channels_last).eval()
            forms = {"": True} if "mod" not in name or "control" in name else {", kernels": True, ", operators": False}
            for form, kernels in forms.items():
                if time.time() > end:
                    break
                operators = patch.object(CudaForm, "accepts", lambda block: False)
                try:
                    with nullcontext() if kernels else operators:
                        graphs[name + form] = captured(cnnmod.lower(model), x_NCHW)
                except (RuntimeError, ValueError) as error:
                    print(f"{name}{form}, batch {batch}: not captured: {str(error).splitlines()[0]}", flush=True)
                    torch.cuda.synchronize()
        times: dict[str, list[float]] = {name: [] for name in graphs}
        for _ in range(rounds):
            for name, graph in graphs.items():
                times[name].append(replay_ms(graph, 20 if batch < 64 else 5))
        for name, measured in times.items():
            ratio = statistics.median(a / b for a, b in zip(times["resnet50"], measured, strict=True))
            print(f"batch {batch} {name}: {statistics.median(measured):.4f} ms, {ratio:.3f} x resnet50", flush=True)
            measurements.append({"network": name, "batch": batch, "times_ms": [round(value, 5) for value in measured]})
        provenance = asdict(Provenance.now(torch.device("cuda"), torch.get_num_threads()))
        content = {"schema": "cnnmod.cudagraph/1", "measurements": measurements, "provenance": provenance}
        write_whole(out, json.dumps(content, indent=1) + "\n")
        del graphs
        torch.cuda.empty_cache()


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("torch found no GPU")
    tyro.cli(main, description=__doc__)

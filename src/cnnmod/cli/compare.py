"""The subcommands `compare` and `plot`."""

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from cnnmod.cli.app import Json, app, console, print_json, print_text
from cnnmod.deploy.targets.table import find_runtime
from cnnmod.deploy.targets.table import runtimes as all_runtimes
from cnnmod.measure.compare import compare as compare_networks
from cnnmod.measure.experiment import Experiment, read_experiment
from cnnmod.measure.results import Comparison, read_result, write_result
from cnnmod.method.config import MoDConfig
from cnnmod.method.trace import example_for
from cnnmod.networks import build, build_mod
from cnnmod.networks.paper import paper_rows
from cnnmod.records.changes import read_change
from cnnmod.records.files import check_writable
from cnnmod.report.figure import four_panels, measured_panels
from cnnmod.report.progress import progress_bars
from cnnmod.report.table import comparison_cells


@app.command
def compare(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    accuracy: Path | None = None,
    batch: tuple[int, ...] = (1,),
    runtimes: tuple[str, ...] = ("eager",),
    against: str | None = None,
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    train: bool = False,
    size: tuple[int, ...] = (),
    channels_last: bool = False,
    threads: int | None = None,
    rounds: int = 20,
    device: str = "cpu",
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """Time MoD networks, their baseline and their controls, interleaved in one process.

    Example: cnnmod compare resnet75_mod --batch 1 8

    Example: cnnmod compare resnet50_mod resnet75_mod --batch 8 --channels-last --out result.json

    Example: cnnmod compare resnet75_mod --runtimes onnxruntime openvino --batch 1 8

    Example: cnnmod compare resnet75_mod --runtimes onnxruntime --set candidates=4

    Example: cnnmod compare resnet75_mod --device cuda --runtimes cudagraph compile eager --channels-last

    Example: cnnmod compare fcn_resnet75_mod fcn_resnet86_mod --size 512 1024

    Example: cnnmod compare --accuracy runs/rows/accuracy.json --batch 64

    Args:
        names: The names of MoD networks, before all options. `cnnmod info NAME` shows a network.
        accuracy: A file that `cnnmod train --rows` wrote. Its networks are timed, and their accuracies are shown.
        batch: The batch sizes.
        runtimes: The runtimes: `eager`, `compile`, `cudagraph`, `onnxruntime`, `onnxruntime-int8`, `openvino`,
            `openvino-bf16`, `openvino-int8`, `pt2`, or `all`, which stands for all that run on the device.
        against: The baseline. Default: the paper's dense counterpart of the first network.
        changes: Changes of `MoDConfig` for the MoD networks, such as `candidates=4`.
        train: Time a training step (forward, backward, optimizer) instead of inference.
        size: Height and width of the images in pixels, or one number for both. Default: the network's own size.
        channels_last: Use the channels-last memory format.
        threads: The number of torch's threads. Default: one for each core.
        rounds: How many times each network is timed at each batch size.
        device: `cpu`, or `cuda` for a GPU.
        out: A result file to write. `cnnmod plot` reads it.
    """
    if bool(names) == (accuracy is not None):
        raise ValueError("compare takes either names of MoD networks or --accuracy: cnnmod compare resnet75_mod")
    if accuracy is not None and (against is not None or size or changes):
        raise ValueError(
            "--accuracy sets the networks and the size; --against, --size and --set are not accepted with it"
        )
    if out is not None:
        check_writable(out)
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device must be one of 'cpu', 'cuda', not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a GPU, but torch finds none")
    if len(size) > 2 or min(size, default=1) < 1:
        raise ValueError(f"--size must be one or two numbers ≥ 1, not {' '.join(map(str, size))}")
    runtime_names = _runtimes_on(device) if "all" in runtimes else list(runtimes)
    for name in runtime_names:  # raise for an unknown or missing runtime before networks are built
        find_runtime(name).target.check_images(torch.empty(0, device=device))
    experiment = None if accuracy is None else read_experiment(accuracy)
    if experiment is not None:
        models = experiment.networks()
        shape = (1, experiment.recipe.images.in_channels, *experiment.recipe.images.size)
    else:
        baseline = against or _counterpart(names[0])
        if len({baseline, *names}) <= len(names):
            raise ValueError(f"a network is named twice: {', '.join([*names, baseline])} (the last is the baseline)")
        models = {baseline: build(baseline)}
        if changes:
            config = MoDConfig.from_dict(dict(map(read_change, changes)))
            models |= {" ".join((name, *changes)): build_mod(name, config) for name in names}
        else:
            models |= {name: build(name) for name in names}
        _, channels, height, width = example_for(models[baseline]).shape
        shape = (1, channels, *((size * 2)[:2] or (height, width)))
    with progress_bars() as progress:
        comparison = compare_networks(
            {name: model.to(device) for name, model in models.items()},
            torch.rand(shape, device=device),
            runtimes=runtime_names,
            batch_sizes=batch,
            threads=threads,
            training=train,
            channels_last=channels_last,
            rounds=rounds,
            accuracy_pct=experiment and experiment.accuracies(),
            accuracy_source=experiment
            and f"{experiment.measure} on {experiment.data}, {experiment.name}, {_seeds(experiment)}",
            progress=progress,
        )
    if out is not None:
        write_result(comparison, out)
    if as_json:
        print_json(_with_ratios(comparison))
    else:
        console.print(comparison_cells(comparison).rich())


@app.command
def plot(
    results: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    out: Path = Path("figure.png"),
    as_json: Json = False,
) -> None:
    """Draw the paper's figure: top-1 over GMACs, parameters, CPU time and GPU time. Measured times are hollow marks.
    For results with accuracies, draw the measured accuracies instead.

    Example: cnnmod plot result.json --out figure.png

    Args:
        results: Result files of `cnnmod compare`. Without them, only the paper's figures are drawn.
        out: The image file to write. Its suffix (.png, .svg, .pdf) sets the format.
    """
    comparisons = [read_result(path) for path in results]
    has_accuracies = any(comparison.accuracy_source is not None for comparison in comparisons)
    draw = measured_panels if has_accuracies else four_panels
    draw(comparisons, out)
    if as_json:
        print_json({"figure": str(out)})
    else:
        print_text(f"Written to {out.resolve()}")


def _runtimes_on(device: str) -> list[str]:
    """Return the names of the runtimes that run on a device."""
    names: list[str] = []
    for name, runtime in all_runtimes().items():
        with suppress(ValueError):
            runtime.target.check_images(torch.empty(0, device=device))
            names.append(name)
    return names


def _seeds(experiment: Experiment) -> str:
    return f"mean of {max(len(row.seeds) for row in experiment.rows)} seeds"


def _counterpart(name: str) -> str:
    build(name)  # a misspelled name is more likely, and `build` suggests the nearest name
    row = paper_rows().get(name)
    if row is None or row.baseline is None:
        raise ValueError(f"the paper has no dense counterpart of {name!r}; set the baseline with --against")
    return row.baseline


def _with_ratios(comparison: Comparison) -> dict[str, Any]:
    ratios = [
        {
            "network": row.name,
            "runtime": runtime,
            "batch_size": batch_size,
            "speedup": comparison.speedup(row, runtime, batch_size),
            "mod_tax": comparison.mod_tax(row, runtime, batch_size) if row.role == "mod" else None,
        }
        for row in comparison.rows
        for runtime, batch_size in comparison.conditions
    ]
    return {"ratios": ratios, **dataclasses.asdict(comparison)}

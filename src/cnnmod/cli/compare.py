"""The subcommands `compare` and `plot`."""

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cnnmod.cli.app import (
    Json,
    Network,
    Size,
    Weights,
    console,
    height_and_width,
    print_json,
    print_text,
)

if TYPE_CHECKING:
    from cnnmod.measure.experiment import Experiment
    from cnnmod.measure.results import Comparison


def compare(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    network: Network = None,
    weights: Weights = None,
    accuracy: Path | None = None,
    batch: tuple[int, ...] = (1,),
    runtimes: tuple[str, ...] = ("eager",),
    against: str | None = None,
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    train: bool = False,
    size: Size = (),
    channels_last: bool = False,
    threads: int | None = None,
    rounds: int = 20,
    device: str = "cpu",
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """Time MoD networks, their baseline and their controls, interleaved in one process. A dense network is timed with
    its MoD form and the control of that.

    Example: cnnmod compare resnet75_mod --batch 1 8

    Example: cnnmod compare timm/regnety_002 --batch 1 8

    Example: cnnmod compare --network my_net:make --weights my_net.pth --size 64

    Example: cnnmod compare resnet50_mod resnet75_mod --batch 8 --channels-last --out result.json

    Example: cnnmod compare resnet75_mod --runtimes onnxruntime openvino --batch 1 8

    Example: cnnmod compare resnet75_mod --runtimes onnxruntime --set candidates=4

    Example: cnnmod compare resnet75_mod --device cuda --runtimes cudagraph compile eager --channels-last

    Example: cnnmod compare fcn_resnet75_mod fcn_resnet86_mod --size 512 1024

    Example: cnnmod compare --accuracy runs/rows/accuracy.json --batch 64

    Args:
        names: The names of networks, or checkpoints (.safetensors), before all options. `cnnmod info NAME` shows a
            network.
        accuracy: A file that `cnnmod train --rows` wrote. Its networks are timed, and their accuracies are shown.
        batch: The batch sizes.
        runtimes: The runtimes: `eager`, `compile`, `cudagraph`, `onnxruntime`, `onnxruntime-int8`, `openvino`,
            `openvino-bf16`, `openvino-int8`, `pt2`, or `all`, which stands for all that run on the device.
        against: The baseline. Default: the dense form of the first network, or the paper's counterpart of a MoD
            network.
        changes: Changes of `MoDConfig` for the MoD networks, such as `candidates=4`.
        train: Time a training step (forward, backward, optimizer) instead of inference.
        channels_last: Use the channels-last memory format.
        threads: The number of torch's threads. Default: one for each core.
        rounds: How many times each network is timed at each batch size.
        device: `cpu`, or `cuda` for a GPU.
        out: A result file to write. `cnnmod plot` reads it.
    """
    import torch

    from cnnmod.cli.candidates import networks_to_compare
    from cnnmod.deploy.targets.table import find_runtime
    from cnnmod.measure.compare import compare as compare_networks
    from cnnmod.measure.results import write_result
    from cnnmod.records.files import check_writable
    from cnnmod.report.progress import progress_bars
    from cnnmod.report.table import comparison_table, rich_table

    if bool(names or (network and accuracy is None)) == (accuracy is not None):
        raise ValueError("compare takes either names of networks or --accuracy: cnnmod compare resnet75_mod")
    if accuracy is not None and (against is not None or size or changes or weights is not None):
        raise ValueError(
            "--accuracy sets the networks and the size; --against, --size, --set and --weights are not accepted with it"
        )
    if out is not None:
        check_writable(out)
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device must be one of 'cpu', 'cuda', not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a GPU, but torch finds none")
    height_and_width(size)
    runtime_names = _runtimes_on(device) if "all" in runtimes else list(runtimes)
    for name in runtime_names:  # raise for an unknown or missing runtime before networks are built
        find_runtime(name).target.check_images(torch.empty(0, device=device))
    experiment = None
    if accuracy is not None:  # needs the packages for training
        from cnnmod.measure.experiment import read_experiment
        from cnnmod.training.named import check_named

        experiment = read_experiment(accuracy)
        check_named(experiment.recipe, network, accuracy)
        models = experiment.networks()
        shape = (1, experiment.recipe.images.in_channels, *experiment.recipe.images.size)
    else:
        models, example = networks_to_compare(names, network, weights, against, changes, size)
        shape = tuple(example.shape)
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
            accuracy_source=experiment and _source(experiment),
            progress=progress,
        )
    if out is not None:
        write_result(comparison, out)
    if as_json:
        print_json(_with_ratios(comparison))
    else:
        console.print(rich_table(comparison_table(comparison)))
        if uncertain := comparison.uncertain_ratios():
            print_text(f"Warning: the rounds spread more than the distance from 1 for {'; '.join(uncertain)}.")


def _source(experiment: "Experiment") -> str:
    """Return where the accuracies come from, for the note below the table."""
    seeds = max(len(row.seeds) for row in experiment.rows)
    return f"{experiment.measure} on {experiment.data}, {experiment.name}, " + (
        f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    )


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
    from cnnmod.measure.results import read_result
    from cnnmod.report.figure import four_panels, measured_panels

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
    import torch

    from cnnmod.deploy.targets.table import runtimes as all_runtimes

    names: list[str] = []
    for name, runtime in all_runtimes().items():
        with suppress(ValueError):  # the target does not run on this device
            runtime.target.check_images(torch.empty(0, device=device))
            names.append(name)
    return names


def _with_ratios(comparison: "Comparison") -> dict[str, Any]:
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

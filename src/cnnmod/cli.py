"""`cnnmod`: each subcommand prints for people, or JSON with `--json`."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from accelerate import PartialState
from rich.console import Console
from tyro.extras import SubcommandApp

from cnnmod.demo import run_demo
from cnnmod.measure.compare import compare as compare_networks
from cnnmod.measure.count import count_modules
from cnnmod.measure.experiment import run_experiment
from cnnmod.measure.results import Comparison, read_result, write_result
from cnnmod.method.convert import mod_blocks
from cnnmod.method.plan import plan
from cnnmod.method.trace import example_for
from cnnmod.networks.build import build, load
from cnnmod.networks.paper import paper_rows
from cnnmod.records.files import check_writable
from cnnmod.report.figure import four_panels
from cnnmod.report.progress import progress_bars
from cnnmod.report.table import Cells, accuracy_text, comparison_cells, experiment_cells, network_cells, recipe_table
from cnnmod.training.data import open_data
from cnnmod.training.evaluate import evaluate as evaluate_network
from cnnmod.training.loop import autocast
from cnnmod.training.recipes import recipe
from cnnmod.training.run import Row, Run, read_run, run_training

app = SubcommandApp()
_console = Console()

Json = Annotated[bool, tyro.conf.arg(name="json", help="Print JSON instead of tables.")]


@app.command
def demo(out: Path = Path("cnnmod-demo"), as_json: Json = False) -> None:
    """See the whole of cnnmod in under three minutes, on images that come with scikit-learn.

    Trains a small dense network, its MoD form and its control on scanned digits; times ResNet50, ResNet75-MoD and its
    control at 224 pixels; writes a folder with tables, figure, result files and a checkpoint.

    Example: cnnmod demo --out my-demo

    Args:
        out: The folder to write.
    """
    with progress_bars() as progress:
        made = run_demo(out, progress)
    if as_json:
        _print_json({name: dataclasses.asdict(getattr(made, name)) for name in ("digits", "imagenet")})
        return
    for comparison in (made.digits, made.imagenet):
        _console.print(comparison_cells(comparison).rich())
        _console.print()
    _console.print(f"Written to {out.resolve()}: {', '.join(file.name for file in made.files)}")


@app.command
def info(
    name: Annotated[str, tyro.conf.Positional], size: tuple[int, int] | None = None, as_json: Json = False
) -> None:
    """Show a network block by block: C, k, parameters, MACs; which blocks are MoD blocks or, for a dense network, which
    `convert_` would make MoD blocks and why not the others; the paper's figures beside ours.

    Example: cnnmod info resnet75_mod

    Example: cnnmod info torchvision/mobilenet_v3_large

    Example: cnnmod info my_package.networks:make_network --size 64 64

    Args:
        name: A network of cnnmod's or timm's, `timm/NAME`, `torchvision/NAME`, or `package.module:factory`, which
            imports the module and calls the factory.
        size: Height and width of its images in pixels; what the network states, or 224, if not given.
    """
    model = build(name)
    example = example_for(model)
    if size is not None:
        if min(size) < 1:
            raise ValueError(f"--size must be ≥ 1, not {size[0]} {size[1]}")
        example = example.new_empty(*example.shape[:2], *size)
    if not as_json:
        _console.print(network_cells(name, model, example).rich())
        return
    mod = mod_blocks(model)
    sizes = count_modules(model, example)
    planned: object = None
    if not mod:
        try:
            planned = dataclasses.asdict(plan(model, example=example))
        except ValueError as error:
            planned = str(error)
    paper = paper_rows().get(name)
    _print_json(
        {
            "network": name,
            **dataclasses.asdict(sizes[""]),
            "mod_blocks": {
                block: {"channels": found.channels, "k": found.k, **dataclasses.asdict(sizes[block])}
                for block, found in mod.items()
            },
            "plan": planned,
            "paper": paper and dataclasses.asdict(paper),
        }
    )


@app.command
def compare(
    names: Annotated[tuple[str, ...], tyro.conf.Positional],
    batch: tuple[int, ...] = (1,),
    against: str | None = None,
    train: bool = False,
    size: int | None = None,
    channels_last: bool = False,
    threads: int | None = None,
    rounds: int = 20,
    device: str = "cpu",
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """Time MoD networks beside their baseline and their controls, interleaved in one process.

    Example: cnnmod compare resnet75_mod --batch 1 8

    Example: cnnmod compare resnet50_mod resnet75_mod --batch 8 --channels-last --out result.json

    Args:
        names: MoD networks; `cnnmod info NAME` shows one.
        batch: Batch sizes.
        against: The baseline; the paper's dense counterpart of the first network if not given.
        train: Time a training step (forward, backward, optimizer) instead of inference.
        size: Height and width of the images in pixels; the network's own if not given.
        channels_last: Use the channels-last memory format.
        threads: torch's threads; all cores' if not given.
        rounds: How many times each network is timed at each batch size.
        device: `cpu`, or `cuda` for a GPU.
        out: A result file to write; `cnnmod plot` reads it.
    """
    if not names:
        raise ValueError("compare takes the name of a MoD network: cnnmod compare resnet75_mod")
    if out is not None:
        check_writable(out)
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device must be one of 'cpu', 'cuda', not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here")
    if size is not None and size < 1:
        raise ValueError(f"--size must be ≥ 1, not {size}")
    baseline = against or _counterpart(names[0])
    if len({baseline, *names}) <= len(names):
        raise ValueError(f"a network is named twice: {', '.join([*names, baseline])} (the last is the baseline)")
    models = {name: build(name).to(device) for name in (baseline, *names)}
    _, channels, height, width = example_for(models[names[0]]).shape
    example = torch.rand(1, channels, size or height, size or width, device=device)
    with progress_bars() as progress:
        comparison = compare_networks(
            models,
            example,
            batch_sizes=batch,
            threads=threads,
            training=train,
            channels_last=channels_last,
            rounds=rounds,
            progress=progress,
        )
    if out is not None:
        write_result(comparison, out)
    if as_json:
        _print_json(_with_ratios(comparison))
    else:
        _console.print(comparison_cells(comparison).rich())


@app.command
def plot(
    results: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    out: Path = Path("figure.png"),
    as_json: Json = False,
) -> None:
    """Draw the paper's figure: top-1 over GMACs, parameters, CPU and GPU time, with measured times as hollow marks.

    Example: cnnmod plot result.json --out figure.png

    Args:
        results: Result files of `cnnmod compare`; the paper's lines alone without any.
        out: The image file; its ending (.png, .svg, .pdf) says the format.
    """
    four_panels([read_result(path) for path in results], out)
    if as_json:
        _print_json({"figure": str(out)})
    else:
        _console.print(f"Written to {out.resolve()}")


@app.command
def train(
    name: Annotated[str | None, tyro.conf.Positional] = None,
    data: str | None = None,
    out: Path | None = None,
    row: Row = "mod",
    seed: int = 0,
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    rows: tuple[Row, ...] = (),
    seeds: tuple[int, ...] = (0,),
    resume: Path | None = None,
    listing: Annotated[bool, tyro.conf.arg(name="list")] = False,
    workers: int | None = None,
    skip_broken: bool = False,
    save_every: float = 60,
    as_json: Json = False,
) -> None:
    """Train a network by a recipe, in a folder that can be resumed; or all rows of a comparison with several seeds.

    Example: cnnmod train --list

    Example: cnnmod train digits --data digits --out runs/digits --set epochs=3

    Example: cnnmod train cifar10_fast --data data/cifar10 --out runs/fast --rows baseline mod control --seeds 0 1 2

    Example: cnnmod train --resume runs/digits

    Args:
        name: A recipe.
        data: `digits`, or a folder of images: class folders, Parquet, WebDataset shards, or torchvision's CIFAR.
        out: The run's folder; with `--rows` one folder for each run in it, and `accuracy.json`.
        row: Which network of the recipe.
        seed: Of the weights, the order and the augmentation.
        changes: Fields of the recipe, as `epochs=3` or `config.order=index`.
        rows: Train these instead of one; what is done in the folder is kept.
        seeds: Of the rows' runs.
        resume: The folder of a run that was cut off; its recipe, data and seed are in it.
        listing: List the recipes.
        workers: Processes that decode images beside the training, if they are decoded as they come; as many as there
            are cores if not given.
        skip_broken: Leave out images that cannot be read, with their number in metrics.jsonl.
        save_every: Seconds after which the state to resume from is saved; it is at the end of an epoch too.
    """
    if listing:
        _console.print(recipe_table())
        return
    if resume is not None:
        if name is not None or data is not None or out is not None or changes or rows:
            raise ValueError("--resume takes everything from the run's folder; give it alone")
        found = read_run(resume)
        how, row, seed, data, out = found.recipe, found.row, found.seed, found.data, resume
        title = resume.name
    else:
        if name is None or data is None or out is None:
            raise ValueError(
                "train takes a recipe, --data and --out: cnnmod train digits --data digits --out runs/digits"
            )
        how, title = recipe(name, changes), ", ".join([name, *changes])
        data = data if data == "digits" else str(Path(data).resolve())
    with progress_bars(PartialState().is_main_process) as progress:
        opened = open_data(data, how, workers=_workers(workers), skip_broken=skip_broken, progress=progress)
        if not rows:
            this = Run(recipe=how, row=row, seed=seed, data=data)
            result = run_training(this, out, opened, save_every_s=save_every, progress=progress)
            shown: Cells | str = accuracy_text(result.accuracy, out)
        else:
            result = run_experiment(
                title, how, rows, seeds, data, opened, out, save_every_s=save_every, progress=progress
            )
            shown = experiment_cells(result)
    _show(shown, dataclasses.asdict(result), as_json)


@app.command
def evaluate(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    data: str,
    workers: int | None = None,
    skip_broken: bool = False,
    as_json: Json = False,
) -> None:
    """Test a network that `cnnmod train` wrote, on the test images of a data set.

    Example: cnnmod evaluate runs/digits/best.safetensors --data digits

    Args:
        checkpoint: `last.safetensors` or `best.safetensors` in a run's folder.
        data: As for `cnnmod train`.
        workers: Processes that decode images; the cores if not given.
        skip_broken: Leave out images that cannot be read.
    """
    how = read_run(checkpoint.parent).recipe
    model = load(checkpoint)
    with progress_bars(PartialState().is_main_process) as progress:
        opened = open_data(data, how, workers=_workers(workers), skip_broken=skip_broken, progress=progress)
        device = PartialState().device
        assert device is not None
        accuracy = evaluate_network(
            model.to(device),
            opened.test,
            opened.num_classes,
            precision=autocast(how, device),
            progress=lambda done, total: progress("testing", done, total),
        )
    _show(accuracy_text(accuracy, checkpoint), dataclasses.asdict(accuracy), as_json)


def _workers(given: int | None) -> int:
    if given is not None and given < 0:
        raise ValueError(f"--workers must be ≥ 0, not {given}")
    return (os.cpu_count() or 1) // PartialState().num_processes if given is None else given


def _show(people: Cells | str, values: object, as_json: bool) -> None:
    if not PartialState().is_main_process:
        return
    if as_json:
        _print_json(values)
    else:
        _console.print(people.rich() if isinstance(people, Cells) else people)


def run(args: list[str] | None = None) -> None:
    """Run the command line; what the user can mend is one line on standard error and exit code 2."""
    sys.path.append(str(Path.cwd()))  # package.module:factory may be the user's own; last, so that it hides nothing
    try:
        app.cli(
            prog="cnnmod",
            description="CNN Mixture-of-Depths: what it is worth, for which network, on this machine.",
            args=args,
        )
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"cnnmod: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _counterpart(name: str) -> str:
    build(name)  # a misspelt name is the likelier mistake, and its error names the nearest
    row = paper_rows().get(name)
    if row is None or row.baseline is None:
        raise ValueError(f"the paper has no dense counterpart of {name!r}; name one with --against")
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


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1))

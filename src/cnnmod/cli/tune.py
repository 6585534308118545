"""The subcommand `tune`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cnnmod.cli.app import Json, Network, Size, Weights, opened, print_json, print_text

if TYPE_CHECKING:
    from cnnmod.tuning.result import Tuned


def tune(
    out: Path,
    name: Annotated[str | None, tyro.conf.Positional] = None,
    network: Network = None,
    weights: Weights = None,
    budget: float | None = None,
    budget_ms: float | None = None,
    runtime: str | None = None,
    c: tuple[int, ...] = (),
    batch: int = 1,
    size: Size = (),
    data: str | None = None,
    recipe: str = "finetune",
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    passes: int = 2,
    threads: int | None = None,
    rounds: int = 20,
    plan_only: bool = False,
    as_json: Json = False,
) -> None:
    """Choose for each block of a network whether it stays, becomes a MoD block or is skipped, within a time budget. The
    times are measured in the runtime on this machine. The plan is a file for `cnnmod train --plan` and `convert_`. With
    images, `front.png` shows the plans for several budgets: their predicted time and their loss before fine-tuning.

    Example: cnnmod tune --network my_net:make --weights my_net.pth --data images --budget 0.7 --out tuned

    Example: cnnmod tune runs/dense/best.safetensors --data data/cifar10 --recipe cifar10 --budget 0.7 --out tuned

    Example: cnnmod tune timm/resnet50 --set network_args.pretrained=true --data imagenet --budget 0.7 --out tuned

    Example: cnnmod tune timm/resnet50 --plan-only --budget-ms 12 --runtime openvino --out tuned

    Args:
        out: The folder for the results. An interrupted command continues there, and another budget uses the same
            measurements.
        name: The name of a dense network, or a checkpoint (.safetensors).
        budget: The largest time as a fraction of the dense network's time, such as 0.7.
        budget_ms: The largest time in milliseconds in the runtime, instead of `--budget`.
        runtime: The runtime as in `cnnmod compare`. Default: `onnxruntime`.
        c: The divisors c of the MoD blocks to try. Each is tried in the paper's form, and, where it can be built, in
            the narrow form, which reads the first C // c channels and writes all. Default: for the paper's form the
            paper's c of this network, and 16; for the narrow form 2 and 4.
        batch: The batch size that will be run.
        data: The images as in `cnnmod train`, on which MoD blocks are trained and compared. The test images are not
            used.
        recipe: The recipe that says how images are prepared. It must have validation images.
        changes: Fields of the recipe to change, such as `image_size=64` or `validation_fraction=0.1`. The fields
            `network_args.NAME` are arguments of the network. Only these can load published weights.
        passes: The number of passes over the training images, in which all MoD blocks are trained.
        threads: The number of threads. Default: torch's number.
        rounds: How many times each network is timed.
        plan_only: Measure times and make a plan, without images and training.
    """
    import torch

    from cnnmod.deploy.lower import without_auxiliary_head
    from cnnmod.networks.own import is_checkpoint
    from cnnmod.report.progress import progress_bars
    from cnnmod.training.data import open_data
    from cnnmod.training.lock import hold
    from cnnmod.training.recipes import recipe as named_recipe
    from cnnmod.training.rows import without_weights
    from cnnmod.tuning.budget import Budget
    from cnnmod.tuning.configs import tuning_configs
    from cnnmod.tuning.images import Split, tuning_images
    from cnnmod.tuning.tune import check_settings
    from cnnmod.tuning.tune import tune as tune_network

    if plan_only != (data is None):
        raise ValueError("tune needs --data, or --plan-only for a plan without images")
    if batch < 1:
        raise ValueError(f"--batch must be ≥ 1, not {batch}")
    Budget(budget, budget_ms, runtime)
    check_settings(runtime, threads, rounds, passes)
    named = name or network or ""
    chosen = named_recipe(recipe, changes, network=named)
    network_args = chosen.networks.network_args
    untrained = weights is None and ":" not in named and without_weights(named, network_args) == network_args
    if data is not None and named and untrained and not is_checkpoint(named):
        raise ValueError(
            f"{named} has no trained weights; give --weights, a checkpoint of a dense network, or the argument for "
            "published weights, such as --set network_args.pretrained=true"
        )
    model, example = opened(name, network, weights, size, network_args)
    model = without_auxiliary_head(model).eval()
    shape = tuple(example.shape[1:])
    images: tuple[Split, Split] | None = None
    factory, arguments = None, {}
    configs = tuning_configs(c) if c else None
    with progress_bars() as progress:
        if data is not None:
            images = tuning_images(opened_data := open_data(data, chosen, progress=progress), chosen, model)
            shape = (chosen.images.in_channels, *(shape[1:] if size else chosen.images.size))
            factory, arguments = _factory(name, network, network_args, opened_data.num_classes)
        with hold(out):
            tuned = tune_network(
                model,
                torch.rand(batch, *shape),
                out,
                train=None if images is None else images[0],
                held_out=None if images is None else images[1],
                budget=budget,
                budget_ms=budget_ms,
                runtime=runtime,
                configs=configs,
                threads=threads,
                rounds=rounds,
                passes=passes,
                factory=factory,
                factory_args=arguments,
                progress=progress,
            )
            drawn = _draw(tuned, out / "front.png")
    if as_json:
        print_json(
            {
                "network": named,
                "runtime": tuned.runtime,
                "times": dataclasses.asdict(tuned.times),
                "largest_error_pct": tuned.times.largest_error_pct(),
                "rank_correlation": tuned.rank_correlation,
                "chosen": dataclasses.asdict(tuned.chosen),
                "front": [dataclasses.asdict(plan) for plan in tuned.front],
                "plan": str(out / "plan.json"),
            }
        )
    else:
        files = ", ".join(sorted(file.name for file in out.iterdir() if not file.name.startswith(".")))
        print_text("\n".join([str(tuned), *([] if drawn else [_NOT_DRAWN]), f"Written to {out}: {files}"]))


_NOT_DRAWN = "front.png is not drawn, because matplotlib is not installed."


def _draw(tuned: "Tuned", path: Path) -> bool:
    """Write the figure of the plans if they have losses. Return whether matplotlib was there if it was needed."""
    path.unlink(missing_ok=True)  # of an earlier call
    if tuned.losses is None:
        return True
    try:
        from cnnmod.report.front import draw_front
        from cnnmod.report.image import write_figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        return False
    write_figure(draw_front(tuned), path)
    return True


def _factory(
    name: str | None, network: str | None, network_args: dict[str, Any], num_classes: int
) -> tuple[str | None, dict[str, Any]]:
    """Return the factory of a network and its arguments, as `cnnmod.save` takes them."""
    from cnnmod.method.structure import read_structure
    from cnnmod.networks.own import is_checkpoint
    from cnnmod.networks.registry import accepts, factory_name
    from cnnmod.training.rows import without_weights

    if name is not None and is_checkpoint(name):
        structure = read_structure(name)
        return structure.factory, structure.factory_args
    full_name = factory_name(str(name or network))
    has_argument = ":" not in full_name and accepts(full_name, "num_classes")
    added = {"num_classes": num_classes} if has_argument else {}
    return full_name, without_weights(full_name, network_args) | added

"""Time the networks of all arms of an experiment of pays.py, interleaved in one process.

    python benchmarks/prices.py benchmarks/pays/cifar100-bottleneck26.json    # writes results/prices-*.json
    python benchmarks/prices.py benchmarks/pays/cifar100-narrow.json --name wide \
        --set image_size=112 'network_args.channels=[64,128,256]'             # the same blocks in a larger network

`--arms control dense narrow-8` times only these arms. An arm with a width of its own cannot be widened by `--set`.

Takes some minutes on two cores; run nothing else.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from pays import Plan, read_plan

from cnnmod.deploy.start import start
from cnnmod.measure.timing import time_interleaved, use_threads
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars
from cnnmod.training.recipe import Recipe
from cnnmod.training.rows import build_row

HERE = Path(__file__).resolve().parent
SCHEMA = "cnnmod.prices/1"
WARMUP = 2


def recipes_of(plan: Plan, changes: Sequence[str], arms: Collection[str] = ()) -> dict[str, Recipe]:
    """Return the changed recipe of each arm, or of each of the given arms.

    Raises:
        ValueError: If the experiment has no such arm, or if a change would replace one of an arm: then their order
            matters.
    """
    if unknown := sorted({*arms} - {*plan.arms}):
        raise ValueError(f"the experiment has no arm {unknown[0]!r}; the arms are {', '.join(plan.arms)}")
    changed = replace(plan, changes=[*plan.changes, *changes])
    recipes = {arm: changed.recipe_of(arm) for arm in plan.arms if arm in arms or not arms}
    for arm, recipe in recipes.items():
        if recipe != plan.recipe_of(arm).changed(changes):
            raise ValueError(
                f"the arm {arm} has its own {', '.join(plan.arms[arm].changes)}, so --set must not change it; leave it "
                "out with --arms"
            )
    return recipes


def main(
    experiment: tyro.conf.Positional[Path],
    out: Path = HERE / "results",
    runtimes: tuple[str, ...] = ("eager", "onnxruntime", "openvino"),
    batch: tuple[int, ...] = (1, 8),
    rounds: int = 60,
    classes: int = 100,
    threads: int = 2,
    arms: tuple[str, ...] = (),
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    name: str = "",
) -> None:
    """Time the arms.

    Args:
        experiment: The file of the experiment.
        out: The folder of the result file.
        runtimes: The runtimes, as in `cnnmod compare`.
        batch: The batch sizes.
        rounds: How many times each network is timed under each condition.
        classes: The number of classes of the data set.
        threads: The number of threads.
        arms: The arms to time. Default: all.
        changes: Changes of the recipes of all arms, to time larger networks with the same blocks.
        name: Added to the name of the result file. Needed with changes.
    """
    if bool(changes) != bool(name):
        raise ValueError("--set and --name must be given together")
    stem = f"{experiment.stem}-{name}" if name else experiment.stem
    if name and experiment.with_stem(stem).exists():
        raise ValueError(f"prices-{stem}.json is the file of the experiment {stem}; use another --name")
    path = out / f"prices-{stem}.json"
    check_writable(path)
    plan = read_plan(experiment)
    recipes = recipes_of(plan, changes, arms)
    models = {arm: build_row(recipe, plan.arms[arm].row, classes).eval() for arm, recipe in recipes.items()}
    images = next(iter(recipes.values())).images
    times: list[dict[str, object]] = []
    with use_threads(threads), progress_bars() as progress:
        for runtime in runtimes:
            for size in batch:
                example = torch.rand(size, images.in_channels, *images.size)
                runs = {name: partial(start(model, runtime, example), example) for name, model in models.items()}
                steps = iter(range(1, WARMUP + rounds + 1))
                times_ms = time_interleaved(
                    runs,
                    rounds=rounds,
                    warmup=WARMUP,
                    progress=lambda: progress(f"{runtime}, batch {size}", next(steps), WARMUP + rounds),  # noqa: B023  called at once
                )
                times.append({"runtime": runtime, "batch_size": size, "times_ms": times_ms})
        provenance = Provenance.now(torch.device("cpu"), torch.get_num_threads())
    content = {
        "schema": SCHEMA,
        "experiment": experiment.stem,
        "changes": changes,
        "size": list(images.size),
        "parameters": {name: sum(value.numel() for value in model.parameters()) for name, model in models.items()},
        "conditions": times,
        "provenance": asdict(provenance),
    }
    write_whole(path, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

"""tune: choose what becomes of each block of a network, within a time budget."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.targets.table import find_runtime
from cnnmod.measure.timing import use_threads
from cnnmod.method.checkpoint import save
from cnnmod.method.config import MoDConfig
from cnnmod.method.copying import copied
from cnnmod.method.modes import evaluation_mode
from cnnmod.records.progress import Progress
from cnnmod.tuning.budget import Budget
from cnnmod.tuning.candidates import Batches, trained_candidates
from cnnmod.tuning.folder import Settings, TuneFolder, hash_of
from cnnmod.tuning.loss_meter import LossMeter
from cnnmod.tuning.losses import LossTable
from cnnmod.tuning.plans import make_plans
from cnnmod.tuning.result import Tuned
from cnnmod.tuning.solve import check_solver, smallest, solve, usual_costs
from cnnmod.tuning.space import Space, find_space
from cnnmod.tuning.stored import write_tuned
from cnnmod.tuning.times import TimeTable, measure_times

BUDGETS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


def tune(
    model: nn.Module,
    example: Tensor,
    out: str | os.PathLike[str],
    *,
    train: Batches | None = None,
    held_out: Batches | None = None,
    budget: float | None = None,
    budget_ms: float | None = None,
    runtime: str | None = None,
    configs: Sequence[MoDConfig] | None = None,
    budgets: Sequence[float] = BUDGETS,
    threads: int | None = None,
    rounds: int = 20,
    passes: int = 2,
    factory: str | None = None,
    factory_args: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress = lambda description, done, total: None,
) -> Tuned:
    """Choose for each block of a network whether it stays, becomes a MoD block or is skipped, within a time budget.

    The time of each choice is measured in the runtime. With images, the MoD blocks of all choices are trained at once
    to compute what their dense blocks compute. Then the increase of the cross-entropy is measured when each choice
    alone is put into the network. An integer program makes several plans within the budget: the smallest sum of
    increases, and sums that prefer replaced blocks in different modules. The plan is the one whose network has the
    smallest measured cross-entropy. Without images, the plan replaces few blocks, in different modules, and prefers two
    MoD blocks to one skipped block.

    The folder gets `plan.json`, which `convert_` takes, `front.json` with the plans for several budgets, and, with
    images, `tuned.safetensors`: the network of the plan with its trained MoD blocks, before fine-tuning.

    An interrupted call continues with the first stage that is not finished. Another budget uses the same measurements.

    Args:
        model: A dense network. It is not changed.
        example: Images (N, C, H, W) with the batch size that will be run.
        out: The folder for the results. It is created if necessary.
        train: Training images for the MoD blocks: batches (images, labels) that can be read several times, such as a
            `DataLoader`. `None` makes a plan without images.
        held_out: Other images, with labels, on which the choices are compared.
        budget: The largest time, as a fraction of the dense network's time.
        budget_ms: The largest time in milliseconds, instead of `budget`.
        runtime: The runtime in which the network will run, on this machine. The default is ONNX Runtime.
        configs: The MoD blocks to try in each block. The default is `cnnmod.tuning.configs.tuning_configs()`: the
            paper's form, and, where they can be built, narrow blocks that read the first half or quarter of the
            channels and write all channels.
        budgets: Further budgets for which plans are made.
        threads: The number of threads. `None` keeps torch's number.
        rounds: How many times each network is timed.
        passes: The number of passes over the training images.
        factory: The factory of the network, which is stored in `tuned.safetensors` as in `cnnmod.save`.
        factory_args: Its arguments.
        progress: Called with a description, the steps done and the number of steps.

    Raises:
        OSError: If the folder cannot be written to.
        ValueError: If no block can be replaced, the budget cannot be met (the message has the smallest one), or the
            folder is of another tuning.
        FloatingPointError: If a loss is not finite.
        ModuleNotFoundError: If a package that the runtime needs is not installed.

    Examples:
        >>> import tempfile
        >>> from cnnmod.networks import build
        >>> model = build("resnet18_cifar", channels=(8, 8, 8, 8), layers=(2, 1, 1, 1))
        >>> example, out = torch.rand(1, 3, 32, 32), tempfile.mkdtemp()
        >>> tuned = tune(model, example, out, budget=1.0, runtime="eager", configs=[MoDConfig(c=4)], rounds=2)
        >>> tuned.chosen.time <= 1.0
        True
    """
    limit = Budget(budget, budget_ms, runtime)
    target = check_settings(runtime, threads, rounds, passes)
    if example.ndim != 4 or len(example) < 1:
        raise ValueError(f"example must be images (N, C, H, W), not of shape {tuple(example.shape)}")
    if (train is None) != (held_out is None):
        raise ValueError("train and held_out must be given together, or none of them")
    if train is not None and held_out is not None and not (len(train) and len(held_out)):
        raise ValueError("train and held_out must have at least one batch each")
    with use_threads(threads), evaluation_mode(model):
        space = find_space(model, configs, example[:1])
        folder = TuneFolder(Path(out))
        folder.check(
            Settings(
                network=space.network,
                blocks={block.name: list(block.choices) for block in space.blocks},
                runtime=target,
                image_shape=list(example.shape),
                threads=torch.get_num_threads(),
                rounds=rounds,
            )
        )
        times = measure_times(
            model,
            space,
            target,
            example,
            rounds=rounds,
            finished=folder.read("times", TimeTable),
            save=lambda table: folder.write("times", table),
            progress=progress,
        )
    fraction = limit.fraction(times)
    if fraction < smallest(space, times):
        solve(space, times, usual_costs(space), fraction)  # raises before the training
    meter = None
    if train is not None and held_out is not None:
        meter = _loss_meter(copied(model).eval(), space, folder, example[:1], train, held_out, passes, progress)
    tuned = make_plans(space, target, times, meter, fraction, budgets, progress)
    if meter is not None:
        network = meter.network(tuned.chosen.labels)
        save(network, folder.path / "tuned.safetensors", factory=factory, factory_args=factory_args)
    write_tuned(tuned, folder)
    return tuned


def check_settings(runtime: str | None, threads: int | None, rounds: int, passes: int) -> str:
    """Check settings of `tune` before any work, and return the name of the runtime.

    Raises:
        ValueError: If the runtime is unknown, or a number is not positive.
        ModuleNotFoundError: If SciPy or a package that the runtime needs is not installed.
    """
    target = "onnxruntime" if runtime is None else runtime
    find_runtime(target)
    check_solver()
    if passes < 1:
        raise ValueError(f"passes must be ≥ 1, not {passes}")
    if rounds < 1 or (threads is not None and threads < 1):
        raise ValueError(f"rounds and threads must be ≥ 1, not {rounds} and {threads}")
    return target


def _loss_meter(
    model: nn.Module,
    space: Space,
    folder: TuneFolder,
    example: Tensor,
    train: Batches,
    held_out: Batches,
    passes: int,
    progress: Progress,
) -> LossMeter:
    """Train the MoD blocks of all choices, measure each choice, and return what measures plans."""
    network = hash_of(model)
    if torch.cuda.is_available():
        model.cuda()
    candidates = trained_candidates(
        model,
        space,
        train,
        example.to(next(model.parameters()).device),
        folder.path / "candidates.safetensors",
        network,
        passes=passes,
        progress=progress,
    )
    meter = LossMeter(
        model,
        candidates,
        train,
        held_out,
        network,
        finished=folder.read("losses", LossTable),
        save=lambda table: folder.write("losses", table),
    )
    meter.measure_choices(space, progress)
    return meter

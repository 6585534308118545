"""Compare the plans of `cnnmod tune` with uniform MoD, its control, plans that only skip blocks, and pruning.

An experiment is a JSON file in benchmarks/tuned, which is committed before its first run. It has four stages:

    dense    train the dense network
    plan     `cnnmod.tune` for each budget, plans that only skip blocks from the same measurements, and the pruned
             networks with the same measured time
    train    fine-tune every arm with every seed, with the dense network as the teacher
    times    time all arms in the runtime, interleaved

    python benchmarks/tuned.py benchmarks/tuned/cifar100-basicblock.json    # writes results/tuned-*.json

Stages that are finished are skipped. An interrupted run is resumed. `plan` and `times` need an idle machine. The pruned
networks need `pip install torch-pruning`.
"""

import dataclasses
import functools
import json
import os
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro
from pays import DATA, HERE, keep_plan
from torch import Tensor, nn

import cnnmod
from cnnmod import MoDConfig
from cnnmod.deploy.start import start
from cnnmod.measure.timing import time_interleaved, use_threads
from cnnmod.method.choices import SKIP, read_plan, write_plan
from cnnmod.networks import load
from cnnmod.records.files import write_whole
from cnnmod.records.parse import parse
from cnnmod.records.provenance import Provenance
from cnnmod.records.roles import Role
from cnnmod.report.progress import progress_bars
from cnnmod.training.data import Data, open_data
from cnnmod.training.folder import Run
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import build_row
from cnnmod.training.run import read_result, run_training
from cnnmod.tuning.candidates import Candidates
from cnnmod.tuning.folder import TuneFolder, hash_of
from cnnmod.tuning.images import tuning_images
from cnnmod.tuning.loss_meter import LossMeter
from cnnmod.tuning.losses import LossTable
from cnnmod.tuning.plans import make_plans
from cnnmod.tuning.result import Tuned
from cnnmod.tuning.space import KEEP, Space, SpaceBlock
from cnnmod.tuning.stored import read_tuned
from cnnmod.tuning.times import TimeTable
from cnnmod.tuning.tune import BUDGETS

SCHEMA = "cnnmod.tuned/1"
FACTORY, PRUNED = "small_resnet:small_resnet", "pruned:pruned"
CLASSES = 100
DENSE, TEACHER = "dense/best.safetensors", "teacher.safetensors"
PLANS, TIMES = Path("plans.json"), Path("times.json")
RATIOS = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6]
MULTIPLES = (None, 8)  # of channels: such numbers of channels may be faster
Stage = Literal["dense", "plan", "train", "times"]
Arm = Literal["uniform", "control", "tune", "skip", "pruned"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment, as in its file.

    Attributes:
        question: The question that the experiment answers.
        stop_rule: When it ends, decided before the first run.
        network_args: The arguments of `small_resnet`.
        dense: Changes of the recipe `cifar100`, for the dense network.
        finetune: Changes of the recipe `finetune`, for all arms.
        c: The divisors of the MoD blocks in the paper's form that `tune` tries. `null` is the paper's.
        narrow: The divisors of the narrow MoD blocks that `tune` tries.
        runtime: The runtime that is timed.
        batch: The batch size that is timed.
        threads: The number of threads that is timed.
        rounds: How many times each network is timed.
        budgets: The budgets, as fractions of the dense network's time.
        seeds: The seeds of the fine-tuning. The dense network has one seed.
        arms: The arms besides the fine-tuned dense network: `tune` and any others.
    """

    question: str
    stop_rule: str
    network_args: dict[str, Any]
    dense: list[str]
    finetune: list[str]
    c: list[int | None]
    runtime: str
    batch: int
    threads: int
    rounds: int
    budgets: list[float]
    seeds: list[int]
    narrow: list[int] = field(default_factory=list)
    arms: list[Arm] = field(default_factory=lambda: list(get_args(Arm)))


class Stages:
    """The stages of an experiment. Their files are in the current folder."""

    def __init__(self, experiment: Experiment, data: Path) -> None:
        self.experiment, self.data = experiment, data
        arguments = [f"network_args.{name}={json.dumps(value)}" for name, value in experiment.network_args.items()]
        self.finetune = recipe("finetune", [*experiment.finetune, *arguments], network=FACTORY)
        changes = [f"baseline={FACTORY}", f"network={FACTORY}", *experiment.dense, *arguments]
        self.dense_recipe = recipe("cifar100", changes)

    @functools.cached_property
    def opened(self) -> Data:
        """The images, decoded once. Dense network and fine-tuning hold out the same ones."""
        return open_data(str(self.data), self.finetune)

    def dense(self) -> nn.Module:
        """Return the trained dense network."""
        return load(DENSE, factory=FACTORY).eval()

    def example(self) -> Tensor:
        """Return the images that are timed."""
        return torch.rand(self.experiment.batch, 3, *self.finetune.images.size)

    def configs(self) -> list[MoDConfig]:
        """Return the MoD blocks that `tune` tries."""
        paper = [MoDConfig(c=c, identity_start=True) for c in self.experiment.c]
        return [*paper, *(MoDConfig.narrow(c) for c in self.experiment.narrow)]

    def train_dense(self) -> None:
        """Train the dense network, and write it once more under the name of the factory of pruned networks."""
        run = Run(recipe=self.dense_recipe, row="baseline", seed=0, data=self.data.name)
        with progress_bars() as bars:
            run_training(run, Path("dense"), open_data(str(self.data), self.dense_recipe), progress=bars)
        arguments = {**self.experiment.network_args, "ratio": 0.0, "num_classes": CLASSES}
        cnnmod.save(self.dense(), TEACHER, factory=PRUNED, factory_args=arguments)

    def plan(self) -> None:
        """Write the plans of `tune`, those that only skip blocks, and the arguments of the pruned networks."""
        if PLANS.exists():
            return
        plans: dict[str, Any] = {}
        for budget in self.experiment.budgets:
            tuned = self._tune(budget)
            shutil.copytree("tune", f"tune-{budget}", dirs_exist_ok=True)
            skipping = self._skip(tuned, budget)
            write_plan(skipping.choices, f"skip-{budget}.json")
            plans[f"tune-{budget}"] = {"labels": tuned.chosen.labels, "predicted": tuned.chosen.time}
            plans[f"skip-{budget}"] = {"labels": skipping.chosen.labels, "predicted": skipping.chosen.time}
        if "pruned" in self.experiment.arms:
            for budget, arguments in self._prune().items():
                plans[f"pruned-{budget}"] = {"arguments": arguments}
        write_whole(PLANS, json.dumps(plans, indent=1) + "\n")

    def _tune(self, budget: float) -> Tuned:
        model = self.dense()
        train, held_out = tuning_images(self.opened, self.finetune, model)
        with progress_bars() as bars:
            return cnnmod.tune(
                model,
                self.example(),
                "tune",
                train=train,
                held_out=held_out,
                budget=budget,
                runtime=self.experiment.runtime,
                configs=self.configs(),
                threads=self.experiment.threads,
                rounds=self.experiment.rounds,
                factory=FACTORY,
                factory_args=self.experiment.network_args,
                progress=bars,
            )

    def _skip(self, tuned: Tuned, budget: float) -> Tuned:
        """Return the plan of `tune` without MoD blocks, from the same measurements."""
        model, folder = self.dense(), TuneFolder(Path("tune"))
        candidates = Candidates(model, tuned.space, self.example()[:1])  # only their blocks are used
        meter = LossMeter(
            model,
            candidates,
            *tuning_images(self.opened, self.finetune, model),
            hash_of(model),
            finished=folder.read("losses", LossTable),
        )
        return make_plans(only_skipping(tuned.space), tuned.runtime, tuned.times, meter, budget, BUDGETS)

    def _prune(self) -> dict[float, dict[str, Any]]:
        """Return the arguments of the largest pruned network within each budget, by measured time."""
        from pruned import pruned  # needs torch-pruning

        grid = [{"ratio": ratio, "round_to": multiple} for ratio in RATIOS for multiple in MULTIPLES]
        models = {str(number): pruned(**self.experiment.network_args, **one) for number, one in enumerate(grid)}
        times = self._times({"dense": self.dense(), **{name: model.eval() for name, model in models.items()}})
        time = {name: ratio(times[name], times["dense"]) for name in models}
        found: dict[float, dict[str, Any]] = {}
        for budget in self.experiment.budgets:
            fast = [name for name in models if time[name] <= budget]
            if not fast:
                raise ValueError(f"no pruned network meets the budget {budget}; the fastest takes {min(time.values())}")
            found[budget] = grid[int(max(fast, key=lambda name: parameters(models[name])))]
        return found

    def _times(self, models: dict[str, nn.Module]) -> dict[str, list[float]]:
        example = self.example()
        with use_threads(self.experiment.threads):
            runs = {
                name: partial(start(model, self.experiment.runtime, example), example) for name, model in models.items()
            }
            return time_interleaved(runs, rounds=self.experiment.rounds)

    def arms(self) -> dict[str, tuple[Role, Recipe]]:
        """Return the row and the recipe of each arm. The plans must be made."""
        plans = json.loads(PLANS.read_text(encoding="utf-8"))
        start = replace(self.finetune.networks, weights=DENSE, config=MoDConfig(identity_start=True))
        own = replace(self.finetune, networks=start)
        wanted = self.experiment.arms
        arms: dict[str, tuple[Role, Recipe]] = {"dense": ("baseline", own)}
        if "uniform" in wanted:
            arms["uniform"] = "mod", own
        if "control" in wanted:
            arms["control"] = "control", own
        for budget in self.experiment.budgets:
            if "tune" in wanted:
                tuned = replace(
                    start, plan=read_plan(f"tune-{budget}/plan.json"), mod_weights=f"tune-{budget}/tuned.safetensors"
                )
                arms[f"tune-{budget}"] = "mod", replace(own, networks=tuned)
            if "skip" in wanted:
                skipping = replace(start, plan=read_plan(f"skip-{budget}.json"))
                arms[f"skip-{budget}"] = "mod", replace(own, networks=skipping)
            if "pruned" in wanted:
                arms[f"pruned-{budget}"] = "baseline", self._pruned(plans[f"pruned-{budget}"]["arguments"])
        return arms

    def _pruned(self, arguments: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a pruned network."""
        networks = replace(
            self.finetune.networks,
            baseline=PRUNED,
            network=PRUNED,
            network_args={**self.experiment.network_args, **arguments, "trained": DENSE},
        )
        return replace(self.finetune, networks=networks).changed([f"teacher={TEACHER}"])

    def train(self, seeds: Sequence[int]) -> None:
        """Fine-tune the arms that are missing. An arm with the plan of another one has no runs of its own."""
        arms, same = self.arms(), self.same()
        runs = [(arm, seed) for seed in seeds for arm in arms if arm not in same]
        with progress_bars() as bars:
            for done, (arm, seed) in enumerate(runs):
                bars("runs", done, len(runs))
                row, made = arms[arm]
                run = Run(recipe=made, row=row, seed=seed, data=self.data.name)
                run_training(run, Path(f"{arm}-seed{seed}"), self.opened, progress=bars)

    def same(self) -> dict[str, str]:
        """Return the arms of `tune` without MoD blocks whose plan only skips the same blocks."""
        plans = json.loads(PLANS.read_text(encoding="utf-8"))
        names = {f"tune-{budget}": f"skip-{budget}" for budget in self.experiment.budgets}
        if "skip" not in self.experiment.arms:
            return {}
        return {one: other for one, other in names.items() if plans[one]["labels"] == plans[other]["labels"]}

    def time(self) -> None:
        """Time the networks of all arms."""
        if TIMES.exists():
            return
        models = {arm: build_row(made, row, CLASSES).eval() for arm, (row, made) in self.arms().items()}
        content = {
            "parameters": {arm: parameters(model) for arm, model in models.items()},
            "times_ms": self._times(models),
            "provenance": dataclasses.asdict(Provenance.now(torch.device("cpu"), self.experiment.threads)),
        }
        write_whole(TIMES, json.dumps(content, indent=1) + "\n")

    def results(self) -> dict[str, Any]:
        """Return the content of the result file: all that is measured so far."""
        plans = json.loads(PLANS.read_text(encoding="utf-8"))
        times = json.loads(TIMES.read_text(encoding="utf-8")) if TIMES.exists() else {}
        tuned, _ = read_tuned("tune")
        table, losses = tuned.times, tuned.losses
        assert losses is not None
        assert table.provenance is not None
        same, arms = self.same(), {}
        for arm, (_, made) in self.arms().items():
            paths = {seed: Path(f"{same.get(arm, arm)}-seed{seed}") / "result.json" for seed in self.experiment.seeds}
            done = {seed: read_result(path, made.task) for seed, path in paths.items() if path.exists()}
            arms[arm] = {
                **plans.get(arm, {}),
                "same_as": same.get(arm),
                "parameters": times.get("parameters", {}).get(arm),
                "times_ms": times.get("times_ms", {}).get(arm),
                "seeds": list(done),
                "top1_pct": [result.accuracy.to_dict()["top1_pct"] for result in done.values()],
                "results": [dataclasses.asdict(result) for result in done.values()],
            }
        return {
            "schema": SCHEMA,
            "name": Path.cwd().name,
            "experiment": dataclasses.asdict(self.experiment),
            "dense": dataclasses.asdict(read_result(Path("dense") / "result.json", self.dense_recipe.task)),
            "choices": choices(tuned.space, table, losses),
            "times_provenance": dataclasses.asdict(table.provenance),
            "saved": table.saved,
            "time_checks": [dataclasses.asdict(check) for check in table.checks],
            "loss_checks": [
                {"predicted": losses.predict(check.labels).cross_entropy, "measured": check.measured.cross_entropy}
                for check in losses.checks
            ],
            "dense_cross_entropy": losses.dense.cross_entropy,
            "rank_correlation": losses.rank_correlation(),
            "arms": arms,
            "provenance": times.get("provenance"),
        }


def choices(space: Space, times: TimeTable, losses: LossTable) -> dict[str, dict[str, float]]:
    """Return the time that each choice saves and its increase of the cross-entropy: means over the blocks."""
    blocks: dict[str, list[SpaceBlock]] = {}
    for block in space.blocks:
        for label in block.choices:
            if label != KEEP:
                blocks.setdefault(label, []).append(block)
    return {
        label: {
            "saved": statistics.mean(times.saves(block, label) for block in found),
            "cross_entropy": statistics.mean(losses.cost(block.name, label) for block in found),
        }
        for label, found in blocks.items()
    }


def only_skipping(space: Space) -> Space:
    """Return the space without MoD blocks."""
    blocks = [
        replace(block, choices={label: choice for label, choice in block.choices.items() if label in (KEEP, SKIP)})
        for block in space.blocks
    ]
    return replace(space, blocks=tuple(blocks))


def parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(value.numel() for value in model.parameters())


def ratio(times: Sequence[float], dense: Sequence[float]) -> float:
    """Return the median of the ratios within each round."""
    return statistics.median(one / other for one, other in zip(times, dense, strict=True))


def main(
    experiment: tyro.conf.Positional[Path],
    stages: tuple[Stage, ...] = ("dense", "plan", "train", "times"),
    seeds: tuple[int, ...] = (),
    data: Path = DATA / "cifar100",
    runs: Path = HERE / "runs" / "tuned",
    out: Path = HERE / "results",
) -> None:
    """Run the stages that are not finished.

    Args:
        experiment: The file of the experiment.
        stages: Only these stages, for example to run those with timings on an idle machine.
        seeds: Only these seeds of the fine-tuning.
        data: The folder of CIFAR-100.
        runs: The folder of the runs.
        out: The folder of the result file.
    """
    planned = parse(Experiment, json.loads(experiment.read_text(encoding="utf-8")), str(experiment))
    if "tune" not in planned.arms:
        raise ValueError(f"{experiment}: arms must have tune, with which the others are compared")
    place, file = (runs / experiment.stem).resolve(), out.resolve() / f"tuned-{experiment.stem}.json"
    keep_plan(experiment, place)
    made = Stages(planned, data.resolve())
    os.chdir(place)  # recipes name files relative to this folder
    torch.set_num_threads(1)
    if "dense" in stages:
        made.train_dense()
    if "plan" in stages:
        made.plan()
    if "train" in stages:
        made.train(seeds or planned.seeds)
    if "times" in stages:
        made.time()
    if PLANS.exists():
        write_whole(file, json.dumps(made.results(), indent=1) + "\n")


if __name__ == "__main__":
    if not DATA.is_dir() and "--data" not in sys.argv:
        sys.exit(f"{DATA} does not exist: set CNNMOD_DATA to the folder that contains cifar100")
    tyro.cli(main, description=__doc__)

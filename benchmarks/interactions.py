"""Which measurement of a plan predicts its accuracy after fine-tuning? The plans take about the same time.

`cnnmod tune` adds the costs of single choices. This script compares the sum with measurements of whole plans:

    sum              the sum of the increases of the cross-entropy of single choices
    sum_normalized   the same, after the statistics of all batch norms are measured again on training images
    whole            the cross-entropy of the whole plan
    normalized       the same, after the statistics of all batch norms are measured again
    short            the same, after a fine-tuning of a few batches

    python benchmarks/interactions.py benchmarks/tuned/cifar100-basicblock.json --budget 0.55

It needs the stages `dense` and `plan` of benchmarks/tuned.py. It writes results/interactions-*.json.
"""

import functools
import json
import os
import random
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import tyro
from pays import DATA, HERE
from torch import Tensor, nn
from torch.nn import functional
from tuned import DENSE, FACTORY, PLANS, Experiment, Stages

from cnnmod import MoDConfig
from cnnmod.method.checkpoint import save
from cnnmod.method.choices import SKIP, read_plan, write_plan
from cnnmod.records.files import write_whole
from cnnmod.records.parse import parse
from cnnmod.report.progress import progress_bars
from cnnmod.training.folder import Run
from cnnmod.training.run import run_training
from cnnmod.tuning.candidates import trained_candidates
from cnnmod.tuning.folder import TuneFolder, hash_of
from cnnmod.tuning.images import Split, tuning_images
from cnnmod.tuning.loss_meter import with_choices
from cnnmod.tuning.normalize import normalize_
from cnnmod.tuning.space import KEEP, Labels, Space, find_space
from cnnmod.tuning.times import TimeTable

SCHEMA = "cnnmod.interactions/1"
WINDOW = 0.02  # of the dense network's time, below and above the budget
NORM_BATCHES, SHORT_BATCHES = 20, 40


def random_plans(space: Space, times: TimeTable, budget: float, count: int, labels: tuple[str, ...]) -> list[Labels]:
    """Return random plans of these labels whose predicted time is near the budget."""
    generator, found = random.Random(0), []
    while len(found) < count:
        drawn = {
            block.name: generator.choice([label for label in block.choices if label in labels])
            for block in space.blocks
        }
        if abs(times.predict(space, drawn) - budget) <= WINDOW and drawn not in found:
            found.append(drawn)
    return found


def fine_tune_(model: nn.Module, teacher: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Fine-tune with the loss of the recipe `finetune`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        logits = model(images)
        with torch.no_grad():
            target = (teacher(images) / 2).log_softmax(1)
        distilled = functional.kl_div((logits / 2).log_softmax(1), target, reduction="batchmean", log_target=True) * 4
        loss = 0.5 * functional.cross_entropy(logits, labels) + 0.5 * distilled
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def cross_entropy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the mean cross-entropy."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for images, labels in batches:
            total += float(functional.cross_entropy(model(images), labels, reduction="sum"))
            count += len(labels)
    return total / count


class Study:
    """The plans of a budget, their measurements, and their fine-tuning."""

    def __init__(self, stages: Stages, budget: float, place: Path) -> None:
        self.stages, self.budget, self.place = stages, budget, place
        place.mkdir(exist_ok=True)
        self.model = stages.dense()
        configs = stages.configs()
        example = stages.example()[:1]
        self.space = find_space(self.model, configs, example)
        folder = TuneFolder(Path("tune"))
        times = folder.read("times", TimeTable)
        assert times is not None
        self.times = times
        file, passes = Path("tune/candidates.safetensors"), 2  # as `tune` without an option
        network, images = hash_of(self.model), self.images[0]
        self.candidates = trained_candidates(self.model, self.space, images, example, file, network, passes=passes)

    def plans(self, count: int) -> dict[str, Labels]:
        """Return the plans by name: those of the experiment, alternate blocks left out, and random ones."""
        made = json.loads(PLANS.read_text(encoding="utf-8"))
        alternate = {block.name: SKIP if self._is_odd(block.name) else KEEP for block in self.space.blocks}
        plans: dict[str, Labels] = {"tune": made[f"tune-{self.budget}"]["labels"], "alternate": alternate}
        mixed = tuple(dict.fromkeys(label for block in self.space.blocks for label in block.choices))
        for kind, labels, number in (("skip", (KEEP, SKIP), count), ("mixed", mixed, count // 2)):
            drawn = random_plans(self.space, self.times, self.budget, number, labels)
            plans |= {f"{kind}{index}": plan for index, plan in enumerate(drawn)}
        return plans

    def _is_odd(self, name: str) -> bool:
        return int(name.rsplit(".", 1)[1]) % 2 == 1

    @functools.cached_property
    def images(self) -> tuple[Split, Split]:
        """The training images and the held-out images."""
        return tuning_images(self.stages.opened, self.stages.finetune, self.model)

    @functools.cache  # noqa: B019  one study in a process
    def losses(self, **labels: str) -> dict[str, float]:
        """Return the cross-entropy of a combination, without and with new statistics of the batch norms."""
        train, held_out = self.images
        network = with_choices(self.model, self.candidates, labels)
        whole = cross_entropy(network, held_out)
        normalize_(network, (images for images, _ in islice(train, NORM_BATCHES)))
        return {"whole": whole, "normalized": cross_entropy(network, held_out)}

    def sums(self, labels: Labels) -> dict[str, float]:
        """Return the sums of the increases of single choices."""
        dense = self.losses()
        alone = [self.losses(**{name: label}) for name, label in labels.items() if label != KEEP]
        return {
            "sum": sum(one["whole"] - dense["whole"] for one in alone),
            "sum_normalized": sum(one["normalized"] - dense["normalized"] for one in alone),
        }

    def measure(self, labels: Labels) -> dict[str, float]:
        """Return the measurements of one plan."""
        train, held_out = self.images
        found = dict(self.losses(**labels))
        network = with_choices(self.model, self.candidates, labels)
        normalize_(network, (images for images, _ in islice(train, NORM_BATCHES)))
        fine_tune_(network, self.model, list(islice(train, SHORT_BATCHES)))
        found["short"] = cross_entropy(network, held_out)
        return found

    def fine_tune(self, name: str, labels: Labels, progress: Any) -> dict[str, float]:
        """Fine-tune a plan as the experiment does, and return its accuracy on the test images."""
        weights, plan = self.place / f"{name}.safetensors", self.place / f"{name}.json"
        network = with_choices(self.model, self.candidates, labels)
        save(network, weights, factory=FACTORY, factory_args=self.stages.experiment.network_args)
        write_plan(self.space.choices(labels), plan)
        has_mod = any(label not in (KEEP, SKIP) for label in labels.values())
        networks = replace(
            self.stages.finetune.networks,
            weights=DENSE,
            config=MoDConfig(identity_start=True),
            plan=read_plan(plan),
            mod_weights=str(weights) if has_mod else None,
        )
        run = Run(
            recipe=replace(self.stages.finetune, networks=networks), row="mod", seed=0, data=self.stages.data.name
        )
        result = run_training(run, self.place / name, self.stages.opened, progress=progress)
        return {"top1_pct": result.accuracy.to_dict()["top1_pct"]}


def main(
    experiment: tyro.conf.Positional[Path],
    budget: float = 0.55,
    plans: int = 8,
    data: Path = DATA / "cifar100",
    runs: Path = HERE / "runs" / "tuned",
    out: Path = HERE / "results",
) -> None:
    """Measure the plans, then fine-tune them. Finished ones are skipped.

    Args:
        experiment: The file of the experiment of tuned.py.
        budget: The budget.
        plans: The number of random plans that only skip blocks. Half as many have MoD blocks.
        data: The folder of CIFAR-100.
        runs: The folder of the runs.
        out: The folder of the result file.
    """
    planned = parse(Experiment, json.loads(experiment.read_text(encoding="utf-8")), str(experiment))
    file = out.resolve() / f"interactions-{experiment.stem}-{budget}.json"
    stages = Stages(planned, data.resolve())
    os.chdir((runs / experiment.stem).resolve())
    torch.set_num_threads(1)
    study = Study(stages, budget, Path(f"interactions-{budget}"))
    done: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["plans"] if file.exists() else {}
    with progress_bars() as bars:
        for kind in ("measure", "fine_tune"):
            for name, labels in study.plans(plans).items():
                entry = done.setdefault(name, {"labels": labels, "time": study.times.predict(study.space, labels)})
                if kind == "measure" and "sum_normalized" not in entry:
                    entry |= study.sums(labels)
                if kind == "measure" and "short" not in entry:
                    entry |= study.measure(labels)
                if kind == "fine_tune" and "top1_pct" not in entry:
                    entry |= study.fine_tune(name, labels, bars)
                content = {"schema": SCHEMA, "experiment": experiment.stem, "budget": budget, "plans": done}
                write_whole(file, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    if not DATA.is_dir() and "--data" not in sys.argv:
        sys.exit(f"{DATA} does not exist: set CNNMOD_DATA to the folder that contains cifar100")
    tyro.cli(main, description=__doc__)

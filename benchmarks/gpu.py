"""Spend some minutes of a GPU: check the kernels, time inference and a training step, then train for accuracy.

The parts run in this order:

    cases       the cases of the CUDA kernels; if one is wrong, the script stops
    inference   ResNet50, ResNet50-, 75- and 86-MoD and their controls, in each runtime, dtype and batch size, with the
                paper's form and with candidates=4; in torch.compile, only ResNet75-MoD and its control
    training    a training step of ResNet50, ResNet75-MoD and its control: bfloat16 autocast, batch 128, torch.compile;
                it comes after the first runtime in the first dtype
    accuracy    an experiment of pays.py, for the rest of the time

Each part writes its own file, `gpu-….json`, as soon as it ends. It is skipped if its file exists, and starts only if
the time that it will probably take is left. So another call continues where this one ended.

    python benchmarks/gpu.py --minutes 9    # writes results/gpu-*.json and pays-cifar100-bottleneck26.json
"""

import copy
import functools
import gc
import itertools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pays
import torch
import tyro
from torch import nn

from cnnmod import MoDConfig, compare
from cnnmod.measure.results import write_result
from cnnmod.networks import build, build_mod
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars
from cnnmod.report.table import comparison_table

HERE = Path(__file__).resolve().parent
CASES = HERE.parent / "tests" / "cuda_cases.py"
FORMS = {"-candidates_4": "candidates=4", "": ""}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
FIRST_ESTIMATES_S = {"cases": 90, "cudagraph": 30, "eager": 30, "compile": 180, "training": 240, "accuracy": 60}
MARGIN = 1.2  # a part is expected to take this many times as long as the last part of the same kind
END_S = 10  # left for the end of the script
MOST_FOR_CASES_S = 300
Kind = Literal["cases", "inference", "training", "accuracy"]


class WrongKernelError(Exception):
    """A case of the CUDA kernels is wrong, so no time that they take counts."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured, and where.

    Attributes:
        device: `cuda`, or `cpu` for a rehearsal.
        networks: The baseline and the MoD networks.
        focus: The MoD network of the training step, and of runtimes that take long to start.
        runtimes: The runtimes for inference. The training step runs in `compile` if it is one of them, else in `eager`.
        dtypes: The dtypes for inference.
        size: The height and width of the images in pixels.
        batch: The batch sizes for inference, the most important first.
        training_batch: The batch size of the training step.
        cases: The number of random cases of the kernels.
        rounds: How many times each network is timed. Small batches are timed four times as often.
        out: The folder of the result files.
        experiment: The experiment of the part `accuracy`.
        data: The folder that contains the data sets.
        runs: The folder of the runs of the experiment.
        processes: The number of runs at a time.
    """

    device: str = "cuda"
    networks: tuple[str, ...] = ("resnet50", "resnet50_mod", "resnet75_mod", "resnet86_mod")
    focus: str = "resnet75_mod"
    runtimes: tuple[str, ...] = ("cudagraph", "compile", "eager")
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    size: int = 224
    batch: tuple[int, ...] = (1, 64, 8, 256)
    training_batch: int = 128
    cases: int = 1000
    rounds: int = 30
    out: Path = HERE / "results"
    experiment: Path = HERE / "pays" / "cifar100-bottleneck26.json"
    data: Path = pays.DATA
    runs: Path = HERE / "runs" / "pays"
    processes: int = max(1, (os.cpu_count() or 1) - 2)


@dataclass(frozen=True)
class Part:
    """A part of the script.

    Attributes:
        name: The name of its result file, without suffix.
        cost: The key of `FIRST_ESTIMATES_S`. Parts with the same key take about as long.
        is_done: Returns whether the part can be skipped.
        run: Runs the part; its argument is the time when it must end.
    """

    name: str
    cost: str
    is_done: Callable[[], bool]
    run: Callable[[float], None]


def parts(settings: Settings, kinds: tuple[Kind, ...]) -> Iterator[Part]:
    """Yield the parts, the most important first."""
    first, *others = itertools.product(settings.runtimes, settings.dtypes)
    if "cases" in kinds:
        yield cases_part(settings)
    if "inference" in kinds:
        yield from inference_parts(settings, *first)
    if "training" in kinds:
        yield from (training_part(settings, suffix) for suffix in FORMS)
    if "inference" in kinds:
        for runtime, dtype in others:
            yield from inference_parts(settings, runtime, dtype)
    if "accuracy" in kinds:
        yield accuracy_part(settings)


def cases_part(settings: Settings) -> Part:
    """Return the part that checks the kernels in a process of its own, since an illegal access ends the process."""
    path = settings.out / "gpu-cases.json"

    def is_done() -> bool:
        if not path.exists():
            return False
        old, now = json.loads(path.read_text(encoding="utf-8"))["provenance"], provenance(settings)
        return (old["commit"], old["device"], old["versions"]) == (now.commit, now.device, now.versions)

    def run(end: float) -> None:
        code = f"import {CASES.stem}; print({CASES.stem}.run_cases({settings.cases}, {settings.device!r}))"
        environment = os.environ | {"PYTHONPATH": f"{CASES.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        began = time.time()
        try:
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=max(1.0, min(MOST_FOR_CASES_S, end - began)),
            )
        except subprocess.TimeoutExpired as error:
            raise WrongKernelError(f"the cases took longer than {error.timeout:.0f} s") from error
        if done.returncode != 0:
            raise WrongKernelError("\n".join(done.stdout.strip().splitlines()[-30:]))
        content = {
            "schema": "cnnmod.gpu_cases/1",
            "cases": settings.cases,
            "seconds": round(time.time() - began, 1),
            "provenance": asdict(provenance(settings)),
        }
        write_whole(path, json.dumps(content, indent=1) + "\n")

    return Part("gpu-cases", "cases", is_done, run)


def inference_parts(settings: Settings, runtime: str, dtype: str) -> Iterator[Part]:
    """Yield a part for each batch size and form."""
    baseline, *mods = settings.networks
    names = (baseline, *([settings.focus] if runtime == "compile" else mods))
    for batch, suffix in itertools.product(settings.batch, FORMS):
        name = f"gpu-{dtype}-{runtime}-batch{batch}{suffix}"
        rounds = settings.rounds * (4 if batch < 64 else 1)
        yield comparison_part(settings, name, runtime, names, suffix, batch, rounds, DTYPES[dtype])


def training_part(settings: Settings, suffix: str) -> Part:
    """Return the part that times a training step."""
    runtime, batch = "compile" if "compile" in settings.runtimes else "eager", settings.training_batch
    names = (settings.networks[0], settings.focus)
    name = f"gpu-training-{runtime}-batch{batch}{suffix}"
    return comparison_part(settings, name, runtime, names, suffix, batch, settings.rounds, None)


def comparison_part(
    settings: Settings,
    name: str,
    runtime: str,
    names: tuple[str, ...],
    suffix: str,
    batch: int,
    rounds: int,
    dtype: torch.dtype | None,
) -> Part:
    """Return a part that times networks under one condition; without a dtype, it times a training step."""
    path = settings.out / f"{name}.json"

    def run(end: float) -> None:
        check_writable(path)
        models = {row: model.to(settings.device, dtype) for row, model in networks(names, FORMS[suffix]).items()}
        example = torch.rand(1, 3, settings.size, settings.size, device=settings.device, dtype=dtype)
        with progress_bars() as bars:
            comparison = compare(
                models,
                example,
                runtimes=(runtime,),
                batch_sizes=(batch,),
                training=dtype is None,
                autocast=torch.bfloat16 if dtype is None else None,
                channels_last=True,
                rounds=rounds,
                progress=bars,
            )
        write_result(comparison, path)
        print(comparison_table(comparison).markdown(), flush=True)

    return Part(name, "training" if dtype is None else runtime, path.exists, run)


def accuracy_part(settings: Settings) -> Part:
    """Return the part that trains the arms of an experiment."""
    plan = pays.read_plan(settings.experiment)
    folder = settings.runs / settings.experiment.stem

    def is_done() -> bool:
        return all((folder / f"{arm}-seed{seed}" / "result.json").exists() for arm, seed in plan.runs())

    def run(end: float) -> None:
        minutes = max(0.0, end - time.time()) / 60
        pays.main(
            settings.experiment,
            data=settings.data,
            runs=settings.runs,
            out=settings.out,
            minutes=minutes,
            processes=settings.processes,
        )

    return Part(f"pays-{settings.experiment.stem}", "accuracy", is_done, run)


def networks(names: tuple[str, ...], change: str) -> dict[str, nn.Module]:
    """Return the baseline and the MoD networks, which `change` changes, as `cnnmod compare --set` does."""
    baseline, *mods = names
    built = {baseline: _built(baseline, "")}
    built |= {f"{name} {change}".strip(): _built(name, change) for name in mods}
    return {name: copy.deepcopy(model) for name, model in built.items()}


@functools.cache
def _built(name: str, change: str) -> nn.Module:
    if not change:
        return build(name)
    field, value = change.split("=")
    return build_mod(name, MoDConfig.from_dict({field: json.loads(value)}))


def provenance(settings: Settings) -> Provenance:
    """Return the provenance of a result of this process."""
    return Provenance.now(torch.device(settings.device), torch.get_num_threads())


def main(
    settings: tyro.conf.OmitArgPrefixes[Settings] = Settings(),
    minutes: float = 9,
    only: tuple[Kind, ...] = ("cases", "inference", "training", "accuracy"),
) -> int:
    """Run the missing parts that fit into the time. Return the exit code.

    Args:
        settings: What is measured, and where.
        minutes: Stop after this time.
        only: The kinds of parts to run.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no GPU; --device cpu --size 32 --runtimes eager is a rehearsal")
    end = time.time() + 60 * minutes - END_S
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    estimates_s, failed, left_out = dict[str, float](FIRST_ESTIMATES_S), list[str](), list[str]()
    for part in parts(settings, only):
        if part.is_done():
            print(f"{part.name}: done", flush=True)
            continue
        began = time.time()
        if began + estimates_s[part.cost] > end:
            left_out.append(part.name)
            continue
        print(f"{part.name}: {end - began:.0f} s left", flush=True)
        try:
            part.run(end)
        except WrongKernelError as error:
            print(f"{part.name}: a case is wrong; nothing is timed\n{error}", flush=True)
            return 1
        except Exception as error:  # the time of the GPU is scarce, so the other parts run
            traceback.print_exc()
            print(f"{part.name}: {(str(error).strip() or type(error).__name__).splitlines()[0]}", flush=True)
            failed.append(part.name)
        estimates_s[part.cost] = MARGIN * (time.time() - began)
        torch._dynamo.reset()
        gc.collect()
        if settings.device == "cuda":
            torch.cuda.synchronize()  # raises an error if this process can no longer use the GPU; then call again
            torch.cuda.empty_cache()
    print(f"failed: {', '.join(failed) or 'nothing'}; no time for: {', '.join(left_out) or 'nothing'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main, description=__doc__))

"""A demo of cnnmod that takes less than three minutes, on images that are part of scikit-learn."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cnnmod.measure.compare import compare
from cnnmod.measure.results import Comparison, control_name, write_result
from cnnmod.method.convert import control_, convert_
from cnnmod.networks import build, load
from cnnmod.records.files import check_writable, make_folder, write_whole
from cnnmod.records.progress import Progress
from cnnmod.report.figure import measured_panels
from cnnmod.report.page.page import write_report
from cnnmod.report.table import comparison_table
from cnnmod.training.data import open_data
from cnnmod.training.evaluate import evaluate
from cnnmod.training.folder import Run, RunFolder
from cnnmod.training.loop import train
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import build_row

_RECIPE = recipe("digits")
_TIMED = ("resnet50", "resnet75_mod")
DIGITS, IMAGENET = (  # what the tables show
    "Scanned digits of 8×8 pixels: whether the MoD network learns. Networks this small gain no time from MoD blocks.",
    "Networks of the paper, with initial weights: how long they take.",
)


@dataclass(frozen=True)
class Demo:
    """The results of the demo.

    Attributes:
        digits: The comparison of the three small networks, with their accuracies.
        imagenet: The comparison of ResNet50, ResNet75-MoD and its control at 224 pixels.
        files: The files that were written.
    """

    digits: Comparison
    imagenet: Comparison
    files: list[Path]


def run_demo(out: Path, progress: Progress = lambda description, done, total: None) -> Demo:
    """Train a small dense network, its MoD network and its control, time ResNet50 and ResNet75-MoD, and write results.

    Args:
        out: The folder for the report, table, figure, result files and checkpoint. It is created if it does not exist.
        progress: Called with the current task, the number of steps done and the number of steps.

    Raises:
        OSError: If the folder cannot be created or written to. This is checked before the training.
    """
    make_folder(out)
    checkpoint = out / "digits_mod" / "best.safetensors"
    checkpoint.parent.mkdir(exist_ok=True)
    check_writable(checkpoint)
    data = open_data("digits", _RECIPE)
    networks = _small_networks(_RECIPE)
    accuracies: dict[str, float] = {}
    for name, model in networks.items():
        task = f"training {name}"
        train(model, data, _RECIPE, progress=lambda done, total, rate: progress(task, done, total))  # noqa: B023  called immediately
        accuracies[name] = evaluate(model, data.test, data.num_classes).value
    (batch,) = data.test.batches([torch.arange(len(data.test))])

    run = Run(recipe=_RECIPE, row="mod", seed=0, data="digits")
    folder = RunFolder(run, checkpoint.parent, data.num_classes, data.classes, save_every_s=0)
    folder.describe()  # `cnnmod inspect` and `cnnmod predict` read the recipe there
    folder.save_best(networks["digits_mod"])
    reloaded = load(checkpoint).eval()
    with torch.inference_mode():
        assert torch.equal(reloaded(batch.images), networks["digits_mod"](batch.images))

    small = compare(
        {name: networks[name] for name in ("digits", "digits_mod")},
        batch.images[:64],
        batch_sizes=(64,),
        accuracy_pct=accuracies,
        accuracy_source=f"top-1 on {len(data.test)} digits, 1 seed",
        progress=progress,
    )
    large = compare(
        {name: build(name) for name in _TIMED},
        torch.rand(1, 3, 224, 224),
        batch_sizes=(1, 8),
        rounds=10,
        progress=progress,
    )
    files = [out / name for name in ("digits.json", "imagenet.json", "figure.png", "table.md")]
    write_result(small, files[0])
    write_result(large, files[1])
    measured_panels([small], files[2])
    write_whole(files[3], "\n\n".join(comparison_table(result).markdown() for result in (small, large)) + "\n")
    report = out / "report.html"
    write_report(files[:2], report)
    return Demo(small, large, [report, *files, checkpoint])


def _small_networks(digits_recipe: Recipe) -> dict[str, nn.Module]:
    """Return the dense network, the MoD network and the control. Weights outside of MoD blocks are equal."""
    torch.manual_seed(0)
    dense = build_row(digits_recipe, "baseline", 10)
    mod = convert_(copy.deepcopy(dense), digits_recipe.networks.config, example=torch.rand(1, 1, 8, 8))
    control = control_(copy.deepcopy(mod))
    return {"digits": dense, "digits_mod": mod, control_name("digits_mod"): control}

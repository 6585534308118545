"""What a trained MoD network selects and predicts, for a report. Needs the run's checkpoint and its data."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from cnnmod.measure.experiment import Experiment
from cnnmod.measure.selection import inspect_selection
from cnnmod.method.convert import mod_blocks
from cnnmod.networks import load
from cnnmod.records.progress import Progress
from cnnmod.records.text import TextTable
from cnnmod.report.page.figures import STYLE, svg
from cnnmod.report.selection import draw_selections
from cnnmod.report.table import selection_table
from cnnmod.training.data import open_data
from cnnmod.training.folder import classes_of, read_run
from cnnmod.training.images import Data
from cnnmod.training.rows import factory_of, size_of

_IMAGES, _COLUMNS = 8, 4


@dataclass(frozen=True)
class Samples:
    """The selections of a network and predictions for some test images, as a table and SVG elements.

    A network without MoD blocks has no selections. It is the network of a plan that only leaves blocks out.
    """

    selections: TextTable | None
    map: str | None
    predictions: str


def sample(folder: Path, experiment: Experiment, network: str | None, progress: Progress) -> Samples | str:
    """Return selections and predictions of an experiment's first MoD run, or the reason why there are none."""
    row = experiment.row("mod")
    if row is None:
        return "No MoD network was trained."
    checkpoint = folder / f"mod-seed{row.seeds[0]}" / "best.safetensors"
    if not checkpoint.is_file():
        return f"{checkpoint} does not exist, so selections and predictions are not shown."
    recipe = experiment.recipe
    if not recipe.task.one_class_each:
        return f"Selections and predictions are shown for classifiers only, not for {recipe.task.name}."
    try:
        data = open_data(read_run(checkpoint.parent).data, recipe, progress=progress)
    except (OSError, ValueError) as error:
        return f"The images could not be opened ({error}), so selections and predictions are not shown."
    name, _ = factory_of(recipe, "mod", experiment.num_classes)
    model = load(checkpoint, factory=None if network is None else name, size=size_of(recipe, name)).eval()
    predictions = _predictions(model, data, classes_of(checkpoint), experiment)
    if not mod_blocks(model):
        return Samples(None, None, predictions)
    selections = inspect_selection(
        model, data.test, data.num_classes, progress=lambda done, total: progress("inspecting", done, total)
    )
    with mpl.rc_context(STYLE):
        selection_map = svg(draw_selections(selections, data.classes), "Selected channels of each MoD block by class")
    return Samples(selection_table(checkpoint, selections), selection_map, predictions)


def _predictions(model: torch.nn.Module, data: Data, classes: list[str] | None, experiment: Experiment) -> str:
    indices = torch.linspace(0, len(data.test) - 1, min(_IMAGES, len(data.test))).long()
    (batch,) = data.test.batches([indices])
    with torch.inference_mode():
        labels = model(batch.images).argmax(1).tolist()
    images = experiment.recipe.images
    shown = batch.images * torch.tensor(images.std).view(-1, 1, 1) + torch.tensor(images.mean).view(-1, 1, 1)
    with mpl.rc_context(STYLE):
        lines = -(-len(indices) // _COLUMNS)
        figure = Figure(figsize=(8, 2.6 * lines), layout="constrained")
        places = figure.subplots(lines, _COLUMNS, squeeze=False).flat
        for axes in places:
            axes.set_axis_off()
        for axes, image, label, target in zip(places, shown, labels, batch.labels.tolist(), strict=False):
            axes.imshow(image.clamp(0, 1).permute(1, 2, 0).squeeze(-1), cmap="gray")
            name, right = _name(label, classes), label == target
            axes.set_title(name if right else f"{name}\nis {_name(target, classes)}", fontsize=9)
        return svg(figure, "Predictions for test images")


def _name(label: int, classes: list[str] | None) -> str:
    return str(label) if classes is None else classes[label]

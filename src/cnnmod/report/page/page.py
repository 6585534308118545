"""Write a report as one HTML file. It loads nothing from the network."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import jinja2
import torch

from cnnmod.deploy.export_report import ExportReport
from cnnmod.measure.experiment import Experiment
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.progress import Progress
from cnnmod.records.provenance import Provenance
from cnnmod.records.text import TextTable
from cnnmod.report.experiment import experiment_table
from cnnmod.report.network import network_table
from cnnmod.report.page.figures import accuracy_over_time
from cnnmod.report.page.plan import check_experiment, plan_section
from cnnmod.report.page.samples import sample
from cnnmod.report.page.sources import Sources, Tuning, read_sources
from cnnmod.report.page.verdict import verdict
from cnnmod.report.table import comparison_table
from cnnmod.training.named import check_named


def write_report(
    paths: Sequence[Path],
    out: str | os.PathLike[str],
    *,
    network: str | None = None,
    progress: Progress = lambda description, done, total: None,
) -> str:
    """Write a report, and return its verdict.

    The report has a verdict in a few sentences, then accuracies with intervals, times, the plan and the network block
    by block, what the MoD blocks select, predictions for test images, and the parity of exported files. Selections and
    predictions need the experiment's checkpoints and data; without them, the report says so.

    Args:
        paths: Folders of `cnnmod train --rows` and `cnnmod tune`, result files of `cnnmod compare`, outputs of `cnnmod
            export --json`.
        out: The file to write.
        network: The factory of your own networks, such as `"package.module:factory"`, which a file alone cannot import.
        progress: Called with the current task, the number of steps done and the number of steps.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If a file is of another kind or names a factory that `network` does not name, the experiments are
            about different data, or the experiments and plans are about different networks.
    """
    if Path(out).suffix not in (".html", ".htm"):
        raise ValueError(f"a report is an HTML file: the suffix must be .html, not {os.fspath(out)!r}")
    sources = read_sources(paths)
    check_writable(out)
    for folder, experiment in sources.experiments:
        check_named(experiment.recipe, network, folder)
        for tuning in sources.tunings:
            check_experiment(tuning, experiment, folder)
    experiments = [experiment for _, experiment in sources.experiments]
    pairs = [(experiment, comparison) for experiment in experiments for comparison in sources.comparisons]
    samples = sample(*sources.experiments[0], network, progress) if experiments else ""
    loader = jinja2.PackageLoader("cnnmod.report.page", "")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    conclusion = verdict(sources)
    text = environment.get_template("page.html.j2").render(
        title=sources.title,
        verdict=conclusion,
        accuracies=[experiment_table(experiment) for experiment in experiments],
        scatter=[svg for pair in pairs if (svg := accuracy_over_time(*pair)) is not None],
        times=[comparison_table(comparison) for comparison in sources.comparisons],
        plans=[plan_section(tuning.tuned) for tuning in sources.tunings],
        blocks=_blocks(experiments[0]) if experiments and experiments[0].row("mod") else None,
        samples=samples,
        exports=[_export_table(report) for report in sources.exports],
        measured=_measured(sources),
        recipes=[(experiment.name, json.dumps(experiment.recipe.to_dict(), indent=1)) for experiment in experiments],
    )
    write_whole(out, text)
    return conclusion


def _blocks(experiment: Experiment) -> TextTable:
    name, model = list(experiment.networks().items())[-1]
    images = experiment.recipe.images
    return network_table(name, model, torch.rand(1, images.in_channels, *images.size))


def _export_table(report: ExportReport) -> TextTable:
    rows = [
        ["format", report.format],
        ["MoD blocks", report.form or "none"],
        ["size, MB", f"{report.file_bytes / 1e6:.2f}"],
        ["largest error, relative to the largest output", f"{report.largest_error:.1e}"],
        *_selection(report),
        *([name, version] for name, version in report.versions.items()),
    ]
    return TextTable(str(report.path), ["against eager PyTorch", "value"], rows)


def _selection(report: ExportReport) -> list[list[str]]:
    if report.selection_agreement is None:  # no MoD block selects channels
        return []
    rows = [
        ["selected channels equal", f"{report.selection_agreement:.2%}"],
        ["selected channels equal, with ties", f"{report.tied_agreement:.2%}"],
    ]
    if report.int8 is not None:
        rows.append(["INT8: selected channels equal", f"{report.int8.selection:.2%}"])
    return rows


def _measured(sources: Sources) -> list[str]:
    lines = [_line(f"Accuracy of {experiment.name}", experiment.provenance) for _, experiment in sources.experiments]
    lines += [_line(f"Time of {comparison.rows[0].name}", comparison.provenance) for comparison in sources.comparisons]
    return [*lines, *(line for tuning in sources.tunings for line in _plan_lines(tuning))]


def _plan_lines(tuning: Tuning) -> list[str]:
    settings, provenance = tuning.settings, tuning.tuned.times.provenance
    shape = "×".join(map(str, settings.image_shape))
    how = (
        f"Times of {tuning.folder.name} ({settings.runtime}, images {shape}): each choice in whole networks, in "
        f"{settings.rounds} interleaved rounds with the dense network"
    )
    return [f"{how}." if provenance is None else _line(how, provenance)]


def _line(what: str, provenance: Provenance) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    commit = f"; commit {provenance.commit}" if provenance.commit else ""
    return f"{what}: {provenance.created}, {provenance.machine}; {versions}{commit}."

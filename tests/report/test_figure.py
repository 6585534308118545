from dataclasses import replace

import pytest
import torch
from matplotlib.image import imread

from cnnmod.measure.results import Comparison, Measurement, Row
from cnnmod.records.provenance import Provenance
from cnnmod.report import figure
from cnnmod.report.figure import four_panels, measured_panels


def comparison(device="cpu", baseline="resnet50"):
    def row(name, role, ms):
        found = Measurement(runtime="eager", batch_size=1, times_ms=[ms, ms], peak_memory_mib=1.0)
        return Row(name=name, role=role, parameters=10**7, gmacs=2.0, accuracy_pct=None, measurements=[found])

    made = Provenance.now(torch.device("cpu"), 2)
    made = Provenance(**{**made.__dict__, "device": device, "processor": "a processor"})
    return Comparison(
        step="inference",
        image_shape=[3, 224, 224],
        dtype="float32",
        channels_last=True,
        accuracy_source=None,
        rows=[row(baseline, "baseline", 4.0), row("resnet75_mod", "mod", 3.0), row("x control", "control", 2.0)],
        provenance=made,
    )


def drawn(comparisons, path, monkeypatch, draw=four_panels):
    """Draw a figure and return the marks of each panel as (label, x values)."""
    figures = []
    monkeypatch.setattr(figure, "Figure", lambda **kw: figures.append(original(**kw)) or figures[-1])
    draw(comparisons, path)
    return [[(line.get_label(), list(line.get_xdata())) for line in axes.lines] for axes in figures[0].axes]


original = figure.Figure


def test_figure_without_results_shows_the_paper(tmp_path, monkeypatch):
    panels = drawn([], tmp_path / "figure.png", monkeypatch)
    assert [[label for label, _ in lines] for lines in panels] == [["dense, the paper's", "MoD, the paper's"]] * 4
    assert dict(panels[2])["dense, the paper's"][2] == 1  # the time of ResNet50 relative to itself
    assert dict(panels[0])["MoD, the paper's"][5] == 3.48
    assert imread(tmp_path / "figure.png").shape[:2] == (1080, 1560)


def test_measured_times_are_relative_to_resnet50(tmp_path, monkeypatch):
    _, _, cpu, gpu = drawn([comparison(), comparison("NVIDIA H100")], tmp_path / "figure.svg", monkeypatch)
    assert cpu[2:] == [
        ("measured: eager, batch 1, channels last, a processor, 2 threads", [1.0]),
        ("_nolegend_", [0.75]),
    ]
    assert gpu[2:] == [("measured: eager, batch 1, channels last, NVIDIA H100", [1.0]), ("_nolegend_", [0.75])]


def test_results_with_other_baselines_are_ignored(tmp_path, monkeypatch):
    panels = drawn([comparison(baseline="resnet101")], tmp_path / "figure.pdf", monkeypatch)
    assert all(len(lines) == 2 for lines in panels)


def test_unknown_suffix_raises(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of \.eps, .*, not '.*bmpx'"):
        four_panels([], tmp_path / "figure.bmpx")
    assert not [*tmp_path.iterdir()]


def with_accuracies(values, **changes):
    plain = comparison(**changes)
    rows = [replace(row, accuracy_pct=value) for row, value in zip(plain.rows, values, strict=True)]
    return replace(plain, rows=rows, accuracy_source="three seeds")


def test_measured_panels_show_the_networks_with_accuracies(tmp_path, monkeypatch):
    own = with_accuracies([90.0, 89.0, None], baseline="dense")
    panels = drawn([own], tmp_path / "figure.png", monkeypatch, measured_panels)
    assert panels[0] == [("dense", [2.0]), ("resnet75_mod", [2.0])]  # the control has no accuracy
    assert panels[1][1] == ("resnet75_mod", [10.0])
    assert panels[2] == [("dense", [1.0]), ("resnet75_mod", [0.75])]


def test_measured_panels_require_accuracies(tmp_path):
    with pytest.raises(ValueError, match="must be inference results with accuracies"):
        measured_panels([with_accuracies([1.0, 2.0, 3.0]), comparison()], tmp_path / "figure.png")
    assert not [*tmp_path.iterdir()]


def test_accuracy_axis_shows_at_least_five_points_and_titles_fit(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(figure, "Figure", lambda **kw: figures.append(original(**kw)) or figures[-1])
    own = replace(with_accuracies([90.0, 89.9, 90.1]), accuracy_source="top-1 on a set with a long name, " * 10)
    measured_panels([own], tmp_path / "figure.png")
    (made,) = figures
    low, high = made.axes[0].get_ylim()
    assert high - low == pytest.approx(5.0)
    assert made.get_suptitle().count("\n") >= 2
    assert len(made.axes[2].collections) == 3  # error bars of the times

import dataclasses
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cnnmod import MoDConfig, compare, convert_, mod_blocks
from cnnmod.measure.experiment import Experiment, RowResult
from cnnmod.networks import build
from cnnmod.records.provenance import Provenance
from cnnmod.report.experiment import experiment_table
from cnnmod.report.network import network_table
from cnnmod.report.table import accuracy_text, comparison_table, rich_table
from cnnmod.training.recipes import recipe
from cnnmod.training.run import Result
from cnnmod.training.scores import Accuracy, AveragePrecision, Overlap
from small import digits_resnet


def rendered(cells, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rich_table(cells))
    return console.export_text()


def test_network_table_shows_blocks_totals_and_the_paper():
    cells = network_table("resnet50_mod", build("resnet50_mod"))
    assert cells.rows[1] == ["layer1.1", "0", "MoD", "256", "4", "8,221", "0.06"]
    assert cells.rows[-2] == ["total", "", "7 MoD", "", "", "18,105,949", "2,561.99"]
    assert cells.rows[-1] == ["the paper's (ImageNet)", "", "", "", "", "18.11 M", "2,600"]
    assert "74.79 % top-1 on ImageNet" in cells.notes[-1]


def test_block_parameters_sum_to_the_total():
    for name in ("mobilenetv2_mod", "vgg16_bn_cifar_mod", "resnet18"):
        *parts, total = [row for row in network_table(name, build(name)).rows if not row[0].startswith("the paper")]
        assert sum(int(row[5].replace(",", "")) for row in parts) == int(total[5].replace(",", ""))


def test_network_without_paper_figures_has_no_paper_row():
    cells = network_table("resnet26d", build("resnet26d"))
    assert cells.rows[-1][0] == "total"
    assert [note.partition(":")[0] for note in cells.notes] == ["MMACs", "→ MoD"]
    assert cells.rows[1][:5] == ["layer1.1", "0", "→ MoD", "256", "4"]


def test_parts_of_blocks_are_listed():
    model = convert_(build("timm/lowformer_b0"))
    assert sum(row[2] == "MoD" for row in network_table("lowformer", model).rows) == len(mod_blocks(model))


def test_comparison_table_has_all_rows_and_fits_80_columns():
    models = {"dense": digits_resnet(), "mod": convert_(digits_resnet(), MoDConfig(c=8))}
    arguments = {"accuracy_pct": {"mod": 98.25}, "accuracy_source": "somewhere"}
    comparison = compare(models, torch.rand(1, 1, 8, 8), batch_sizes=(1, 2), rounds=2, **arguments)
    cells = comparison_table(comparison)
    assert [row[:2] for row in cells.rows[:4]] == [["dense", "1"], ["mod", "1"], ["└ control", "1"], ["dense", "2"]]
    accuracy, tax = cells.header.index("score %"), cells.header.index("MoD tax %")
    assert [row[accuracy] for row in cells.rows[:3]] == ["", "98.25", ""]
    assert [bool(row[tax]) for row in cells.rows[:3]] == [False, True, False]
    text = rendered(cells)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    markdown = cells.markdown()
    assert markdown.count("\n|") == 2 + 6
    assert "somewhere" in markdown


def test_long_names_wrap_instead_of_figures():
    config = "c=4 select=first scale=input fuse_to=all"
    models = {"resnet18": digits_resnet(), f"resnet18_mod {config}": convert_(digits_resnet(), MoDConfig(c=8))}
    text = rendered(comparison_table(compare(models, torch.rand(1, 1, 8, 8), rounds=2)))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "MoD tax %" in text


def experiment(name, rows, changes=()):
    """Return an experiment with these accuracies."""
    found = [
        RowResult(
            row=row,
            seeds=list(range(len(accuracies))),
            results=[
                Result(accuracy=Accuracy(value, None, 10_000, 0), seconds=60.0, parameters=10**6)
                for value in accuracies
            ],
        )
        for row, accuracies in rows.items()
    ]
    return Experiment(
        name=name,
        recipe=recipe("cifar10_fast", changes),
        data="cifar10",
        train_images=50_000,
        num_classes=10,
        rows=found,
        provenance=Provenance.now(torch.device("cpu"), 1),
    )


def test_experiments_are_shown_in_one_table():
    first = experiment("fast", {"mod": [80.0, 80.2, 80.4], "control": [79.0, 79.4]})
    order = experiment("fast, config.order=index", {"mod": [81.0]}, ["config.order=index"])
    cells = experiment_table(first, order)
    assert cells.header == ["network", "params M", "top-1 %", "over control", "over mod", "n", "s per run"]
    assert cells.rows[0] == ["mod", "1.000", "80.20 ±0.20", "+1.00 ±1.20", "", "3", "60"]
    assert cells.rows[1][2:5] == ["79.20 ±0.28", "", "-1.00 ±1.20"]
    assert cells.rows[2] == ["config.order=index", "1.000", "81.00", "+1.80", "+0.80", "1", "60"]
    assert "over mod" not in experiment_table(first).header


def test_equal_accuracies_in_all_runs_are_supported():
    """For example, networks that did not learn have equal accuracies."""
    cells = experiment_table(experiment("fast", {"mod": [10.0, 10.0, 10.0], "control": [10.0, 10.0, 82.8]}))
    assert cells.rows[0][2:4] == ["10.00 ±0.00", "-24.27 ±104.41"]


def test_incomparable_experiments_raise():
    first = experiment("fast", {"mod": [80.0]})
    longer = experiment("fast, epochs=3", {"mod": [80.0]}, ["epochs=3"])
    with pytest.raises(ValueError, match=r"'fast, epochs=3' differs from 'fast' in more than the MoD config"):
        experiment_table(first, longer)


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (
            Accuracy(90.0, None, 10, 0, absent_classes=[0, 2]),
            "10 test images; no test image belongs to a (class 0), c (class 2)",
        ),
        (
            Overlap(50.0, 60.0, 70.0, [50.0, None], 10, 1, [1]),
            "could not be read; no test pixel belongs to b (class 1)",
        ),
        (
            AveragePrecision(50.0, 51.0, 30.0, [50.0, None], 10, 0, [2]),
            "10 test images; no test box belongs to c (class 2)",
        ),
        (Accuracy(90.0, None, 10, 0), "10 test images"),
    ],
)
def test_absent_classes_are_named(score, said):
    text = accuracy_text(score, Path("best"), ["a", "b", "c"])
    assert text.endswith(said)
    assert ("(class" in text) == bool(score.absent_classes)
    first = experiment("fast", {"mod": [80.0]})
    result = dataclasses.replace(first.rows[0].results[0], accuracy=score)
    rows = [dataclasses.replace(first.rows[0], results=[result])]
    notes = experiment_table(dataclasses.replace(first, rows=rows)).notes
    numbers = ", ".join(f"class {number}" for number in score.absent_classes)
    assert notes[1:] == ([f"Classes that the test set does not have: {numbers}."] if numbers else [])

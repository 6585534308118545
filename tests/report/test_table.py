import io

import torch
from rich.console import Console

from cnnmod import MoDConfig, compare, convert_, mod_blocks
from cnnmod.networks import build
from cnnmod.report.table import comparison_cells, network_cells
from small import digits_resnet


def rendered(cells, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(cells.rich())
    return console.export_text()


def test_network():
    cells = network_cells("resnet50_mod", build("resnet50_mod"))
    assert cells.rows[1] == ["layer1.1", "0", "MoD", "256", "4", "8,221", "0.06"]
    assert cells.rows[-2] == ["total", "", "7 MoD", "", "", "18,105,949", "2,561.99"]
    assert cells.rows[-1] == ["the paper's (ImageNet)", "", "", "", "", "18.11 M", "2,600"]
    assert "74.79 % top-1 on ImageNet" in cells.notes[-1]


def test_blocks_and_the_rest_make_the_whole():
    for name in ("mobilenetv2_mod", "vgg16_bn_cifar_mod", "resnet18"):
        *parts, total = [row for row in network_cells(name, build(name)).rows if not row[0].startswith("the paper")]
        assert sum(int(row[5].replace(",", "")) for row in parts) == int(total[5].replace(",", ""))


def test_a_network_that_the_paper_does_not_have():
    cells = network_cells("resnet26d", build("resnet26d"))
    assert cells.rows[-1][0] == "total"
    assert [note.partition(":")[0] for note in cells.notes] == ["MMACs", "→ MoD"]
    assert cells.rows[1][:5] == ["layer1.1", "0", "→ MoD", "256", "4"]


def test_parts_of_blocks_are_listed():
    rows = network_cells("maxvit", convert_(build("maxvit_rmlp_pico_rw_256"))).rows
    assert sum(row[2] == "MoD" for row in rows) == len(mod_blocks(convert_(build("maxvit_rmlp_pico_rw_256"))))


def test_comparison():
    models = {"dense": digits_resnet(), "mod": convert_(digits_resnet(), MoDConfig(c=8))}
    arguments = {"accuracy_pct": {"mod": 98.25}, "accuracy_source": "somewhere"}
    comparison = compare(models, torch.rand(1, 1, 8, 8), batch_sizes=(1, 2), rounds=2, **arguments)
    cells = comparison_cells(comparison)
    assert [row[:2] for row in cells.rows[:4]] == [["dense", "1"], ["mod", "1"], ["└ control", "1"], ["dense", "2"]]
    accuracy, tax = cells.header.index("top-1 %"), cells.header.index("MoD tax %")
    assert [row[accuracy] for row in cells.rows[:3]] == ["", "98.25", ""]
    assert [bool(row[tax]) for row in cells.rows[:3]] == [False, True, False]
    text = rendered(cells)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    markdown = cells.markdown()
    assert markdown.count("\n|") == 2 + 6
    assert "somewhere" in markdown

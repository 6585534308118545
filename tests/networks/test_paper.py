import timm

from cnnmod.networks import paper_rows
from cnnmod.networks.registry import FACTORIES


def test_every_row_names_a_network():
    for name, row in paper_rows().items():
        assert timm.is_model(name) or name in FACTORIES, name
        assert (row.baseline in paper_rows()) == ("_mod" in name), name


def test_headline_figures_are_correct():
    mod, dense = paper_rows()["resnet75_mod"], paper_rows()["resnet50"]
    assert (mod.accuracy_pct, dense.accuracy_pct) == (76.27, 76.25)
    assert round(dense.cpu_ms / mod.cpu_ms, 2) == 1.25

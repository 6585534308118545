"""Compare exported networks on photographs."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import parity
from cnnmod import MoDConfig

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "parity.json"
needs_photographs = pytest.mark.skipif(
    find_spec("foolbox") is None, reason="the photographs are foolbox's, which is not installed"
)


def keeps_the_promise(row):
    assert row.mod_blocks > 0 or row.name.endswith("_cifar"), row
    assert row.classes > 1, row  # with one predicted class, agreement would mean nothing
    assert row.largest_error <= 1e-4, row
    assert row.top1_equal + row.top1_near_ties == 20, row
    assert row.selected_alike + row.selection_near_ties == 20, row
    assert row.selected_alike > 0, row
    assert row.tied_agreement == 1, row


@needs_photographs
def test_photographs_are_normalized():
    images = parity.photographs(32, (0.5, 0.5, 0.5), (0.25, 0.5, 0.5))
    assert images.shape == (20, 3, 32, 32)
    assert -2 <= images[:, 0].min() < images[:, 1].min() <= 0 <= images[:, 1].max() < images[:, 0].max() <= 2


def test_missing_foolbox_raises(monkeypatch):
    monkeypatch.setattr(parity, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="the photographs are part of foolbox: pip install foolbox"):
        parity.photographs(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_only_selections_without_near_ties_are_compared():
    """Images: the same channels, a near tie, another order, and a difference in a later block only."""
    importance_NC = torch.tensor([[3.0, 2.0, 1.0]] * 4)
    importance_NC[1, 1] = 3.00001
    ours_NK = torch.tensor([[0, 1], [1, 0], [0, 1], [0, 1]])
    later_NC = torch.tensor([[1.0, 1.0, 1.0]] * 4)
    eager = parity.Eager(torch.zeros(4, 10), {"a": ours_NK, "b": ours_NK}, {"a": importance_NC, "b": later_NC})
    theirs_NK = torch.tensor([[0, 1], [0, 1], [1, 0], [0, 2]])
    later_NK = torch.tensor([[0, 1], [1, 0], [0, 2], [2, 1]])
    alike_N, near_tied_N = parity.selected_alike(eager, {"a": theirs_NK, "b": later_NK})
    assert alike_N.tolist() == [True, False, False, False]
    assert near_tied_N.tolist() == [False, True, False, False]


NARROW = {"layers": (2, 1, 1, 1), "channels": (16, 32, 64, 128), "config": MoDConfig(c=16)}


@needs_photographs
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("resnet18_cifar_mod", NARROW, id="narrow", marks=pytest.mark.slow),
        *(pytest.param(name, {}, id=name, marks=pytest.mark.slow) for name in parity.names()),
    ],
)
@pytest.mark.filterwarnings("ignore")  # warnings of the exporters
def test_exported_networks_equal_eager(name, arguments):
    rows = parity.survey(name, **arguments)
    assert [row.runtime for row in rows] == ["onnxruntime", "openvino"]
    for row in rows:
        keeps_the_promise(row)


def test_committed_results_meet_the_requirements():
    """The file has the networks that were compared so far, in the order of `parity.names()`."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [parity.Row(**row) for row in result["rows"]]
    expected = [(name, runtime) for name in parity.names() for runtime in parity.RUNTIMES]
    assert result["networks"] == len(parity.names())
    assert len(rows) >= 2 * 10
    assert [(row.name, row.runtime) for row in rows] == expected[: len(rows)]
    for row in rows:
        keeps_the_promise(row)

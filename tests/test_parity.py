"""Exported networks on photographs: two networks here, all behind `-m slow`."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

import parity

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "parity.json"
needs_photographs = pytest.mark.skipif(
    find_spec("foolbox") is None, reason="the photographs are foolbox's, which is not installed"
)


def keeps_the_promise(row):
    assert row.mod_blocks > 0 or row.name.endswith("_cifar"), row
    assert row.classes > 1, row  # or equal classes say nothing
    assert row.largest_error <= 1e-4, row
    assert row.top1_equal + row.top1_near_ties == 20, row
    assert (row.selection_agreement, row.tied_agreement) == (1, 1), row


@needs_photographs
def test_photographs():
    images = parity.photographs(32, (0.5, 0.5, 0.5), (0.25, 0.5, 0.5))
    assert images.shape == (20, 3, 32, 32)
    assert -2 <= images[:, 0].min() < images[:, 1].min() <= 0 <= images[:, 1].max() < images[:, 0].max() <= 2


def test_without_foolbox(monkeypatch):
    monkeypatch.setattr(parity, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="the photographs are foolbox's: pip install foolbox"):
        parity.photographs(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@needs_photographs
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=() if name in ("resnet18_cifar_mod", "torchvision/mobilenet_v3_small") else pytest.mark.slow
        )
        for name in parity.names()
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the exporters
def test_equals_eager(name):
    rows = parity.survey(name)
    assert [row.runtime for row in rows] == ["onnxruntime", "openvino"]
    for row in rows:
        keeps_the_promise(row)


def test_committed():
    """Of the networks that were compared so far, the small ones first."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [parity.Row(**row) for row in result["rows"]]
    expected = [(name, runtime) for name in parity.names() for runtime in parity.RUNTIMES]
    assert result["networks"] == len(parity.names())
    assert len(rows) >= 2 * 10
    assert [(row.name, row.runtime) for row in rows] == expected[: len(rows)]
    for row in rows:
        keeps_the_promise(row)

from pathlib import Path

import pytest
import torch
from PIL import Image

from cnnmod.report.prediction import color, prediction_figure
from cnnmod.training.predictions import Boxes, ClassMap, Prediction, TopClasses
from pictures import picture

HALVES = torch.cat([torch.zeros(40, 32), torch.full((40, 32), 13)], dim=1).long()


@pytest.mark.parametrize(
    "prediction",
    [
        ClassMap(HALVES),
        Boxes(torch.tensor([[5.0, 0.0, 30.0, 30.0], [20.0, 20.0, 60.0, 39.0]]), [1, 2], [0.9, 0.5]),
        Boxes(torch.zeros(0, 4), [], []),
        TopClasses([3, 1], [0.8, 0.2]),
    ],
)
def test_every_prediction_is_drawn(prediction: Prediction, tmp_path: Path) -> None:
    picture((100, 100, 100), (64, 40)).save(tmp_path / "image.png")
    prediction_figure(tmp_path / "image.png", prediction, str, tmp_path / "drawn.png")
    drawn = Image.open(tmp_path / "drawn.png").convert("RGB")
    assert drawn.width > 600
    if isinstance(prediction, ClassMap):
        left, right = drawn.getpixel((300, 300)), drawn.getpixel((800, 300))
        assert left != right


def test_twenty_classes_have_distinct_colors() -> None:
    assert len({color(label) for label in range(20)}) == 20

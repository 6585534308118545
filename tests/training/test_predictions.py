import pytest
import torch

from cnnmod.training.predictions import Boxes, ClassMap, TopClasses

NAMES = ["sky", "road", "car"]


@pytest.mark.parametrize(
    ("prediction", "values", "text"),
    [
        (TopClasses([2, 0], [0.75, 0.2]), {"classes": {"car": 0.75, "sky": 0.2}}, "car 75.0%, sky 20.0%"),
        (ClassMap(torch.tensor([[1, 1], [1, 0]])), {"pixels": {"road": 3, "sky": 1}}, "road 75%, sky 25%"),
        (
            Boxes(torch.tensor([[1.04, 2, 3, 4], [5, 6, 7, 8]]), [2, 2], [0.9, 0.5]),
            {
                "boxes": [
                    {"class": "car", "score": 0.9, "box": [1.0, 2.0, 3.0, 4.0]},
                    {"class": "car", "score": 0.5, "box": [5.0, 6.0, 7.0, 8.0]},
                ]
            },
            "2 car",
        ),
        (Boxes(torch.zeros(0, 4), [], []), {"boxes": []}, "nothing"),
    ],
)
def test_values_and_text_are_correct(prediction, values, text):
    assert prediction.values(NAMES.__getitem__) == values
    assert prediction.text(NAMES.__getitem__) == text

import pytest

from cnnmod.records.parse import parse
from cnnmod.training.scores import Accuracy, AveragePrecision, Overlap, Score


@pytest.mark.parametrize(
    ("kind", "old"),
    [
        (Accuracy, {"top1_pct": 90.0, "top5_pct": None, "images": 10, "broken": 0}),
        (
            Overlap,
            {
                "miou_pct": 5.0,
                "class_accuracy_pct": 6.0,
                "pixel_accuracy_pct": 7.0,
                "iou_pct": [],
                "images": 1,
                "broken": 0,
            },
        ),
    ],
)
def test_older_files_have_no_absent_classes(kind, old) -> None:
    assert parse(kind, old, "file").absent_classes == []


@pytest.mark.parametrize(
    "score",
    [
        Accuracy(90.0, None, 10, 0),
        Overlap(50.0, 60.0, 70.0, [50.0, None], 10, 1, [1]),
        AveragePrecision(50.0, 51.0, 30.0, [50.0, None], 10, 0),
    ],
)
def test_scores_are_read_back_as_their_class(score: Score) -> None:
    assert parse(Score, vars(score), "file", {Score: type(score)}) == score

import pytest
import torch

from cnnmod.training.metrics import Metric
from cnnmod.training.scores import AveragePrecision, Overlap
from cnnmod.training.tasks import TASKS

CPU = torch.device("cpu")


def make_metric(task: str, num_classes: int) -> Metric:
    return TASKS[task]().metric(num_classes, CPU)


def test_overlap_equals_manual_values() -> None:
    metric = make_metric("segmentation", 3)
    truth = torch.tensor([[[0, 0, 1], [1, 1, 255]]])
    found = torch.tensor([[[0, 1, 1], [1, 0, 2]]])
    metric.update({"out": torch.nn.functional.one_hot(found, 3).permute(0, 3, 1, 2).float()}, truth)
    overlap = metric.compute(1, 0)
    assert isinstance(overlap, Overlap)
    assert overlap.iou_pct == [pytest.approx(100 / 3, abs=1e-4), 50.0, None]
    assert overlap.miou_pct == overlap.value == pytest.approx((100 / 3 + 50) / 2, abs=1e-4)
    assert overlap.pixel_accuracy_pct == 60.0
    assert overlap.class_accuracy_pct == pytest.approx((50 + 200 / 3) / 2, abs=1e-4)
    assert overlap.absent_classes == [2]


def boxes(*found: tuple[int, float, list[float]], difficult: bool = False) -> dict[str, torch.Tensor]:
    return {
        "labels": torch.tensor([label for label, _, _ in found]),
        "scores": torch.tensor([score for _, score, _ in found]),
        "boxes": torch.tensor([box for _, _, box in found]).reshape(-1, 4),
        "difficult": torch.tensor([int(difficult)] * len(found)),
    }


A, B, FAR = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0], [60.0, 60.0, 70.0, 70.0]


def test_precision_equals_manual_values() -> None:
    metric = make_metric("detection", 3)
    # class 1 is hit, missed, hit: precision 1 up to recall 0.5, then 2/3; class 2 has no prediction
    metric.update([boxes((1, 0.9, A), (1, 0.8, FAR), (1, 0.7, B))], [boxes((1, 1, A), (1, 1, B), (2, 1, FAR))])
    precision = metric.compute(1, 0)
    assert isinstance(precision, AveragePrecision)
    eleven = (6 * 1 + 5 * 2 / 3) / 11
    assert precision.class_ap50_pct == [pytest.approx(100 * eleven, abs=1e-3), 0.0]
    assert precision.ap50_voc07_pct == precision.value == pytest.approx(100 * eleven / 2, abs=1e-3)
    assert precision.ap50_pct == pytest.approx(100 * (1 / 2 + 1 / 3) / 2, abs=0.1)
    assert precision.coco_ap_pct <= precision.ap50_pct + 1


@pytest.mark.parametrize("hits", [1, 2, 3, 4])
def test_exactly_reached_recall_is_counted(hits: int) -> None:
    metric = make_metric("detection", 2)
    there = [(1, 1.0, [20.0 * n, 0.0, 20.0 * n + 10, 10.0]) for n in range(5)]
    metric.update([boxes(*there[:hits])], [boxes(*there)])
    assert metric.compute(1, 0).value == pytest.approx(100 * (2 * hits + 1) / 11, abs=1e-3)


def test_difficult_boxes_are_not_counted() -> None:
    metric = make_metric("detection", 2)
    metric.update([boxes((1, 0.9, B), (1, 0.8, A))], [boxes((1, 1, A))])
    there = {name: torch.cat([boxes((1, 1, A))[name], boxes((1, 1, B), difficult=True)[name]]) for name in boxes()}
    easy = make_metric("detection", 2)
    easy.update([boxes((1, 0.9, B), (1, 0.8, A))], [there])
    assert easy.compute(1, 0).value == 100.0
    assert metric.compute(1, 0).value == 50.0


def test_absent_class_has_no_precision() -> None:
    metric = make_metric("detection", 4)
    there = {name: torch.cat([boxes((1, 1, A))[name], boxes((3, 1, B), difficult=True)[name]]) for name in boxes()}
    metric.update([boxes((1, 0.9, A), (2, 0.9, FAR))], [there])
    found = metric.compute(1, 0)
    assert isinstance(found, AveragePrecision)
    assert found.class_ap50_pct[:2] == [100.0, None]
    assert found.absent_classes == [2, 3]


def test_classes_without_labels_are_absent() -> None:
    metric = make_metric("classification", 3)
    metric.update(torch.eye(3)[[0, 1]], torch.tensor([0, 2]))
    assert metric.compute(2, 0).absent_classes == [1]
    metric = make_metric("segmentation", 2)
    metric.update(
        {"out": torch.eye(2)[torch.tensor([[[0, 1], [0, 1]]])].permute(0, 3, 1, 2)}, torch.tensor([[[0, 0], [0, 255]]])
    )
    found = metric.compute(1, 0)
    assert isinstance(found, Overlap)
    assert found.absent_classes == [1]


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_nan_logits_raise(task) -> None:
    """Without the error, `argmax` would return a class for NaN."""
    metric = make_metric(task, 2)
    for value in (0.0, float("nan"), 0.0):
        if task == "segmentation":
            metric.update({"out": torch.tensor([0.0, value]).view(1, 2, 1, 1)}, torch.zeros(1, 1, 1, dtype=torch.long))
        else:
            metric.update(torch.tensor([[0.0, value]]), torch.tensor([0]))
    with pytest.raises(FloatingPointError, match="outputs of the network on the test images contain NaN"):
        metric.compute(3, 0)


def test_score_without_predictions_is_zero() -> None:
    metric = make_metric("detection", 2)
    metric.update([boxes()], [boxes((1, 1, A))])
    assert metric.compute(1, 0).value == 0.0


def test_different_number_of_classes_raises() -> None:
    with pytest.raises(ValueError, match="the network has 4 classes, the images have 3"):
        make_metric("segmentation", 3).update({"out": torch.zeros(1, 4, 2, 2)}, torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="the network has 4 classes, the images have 3"):
        make_metric("classification", 3).update(torch.zeros(1, 4), torch.zeros(1))

import pytest
import torch
from torch import nn

from cnnmod.training.data import open_data
from cnnmod.training.evaluate import evaluate
from cnnmod.training.in_memory import ImagesInMemory
from cnnmod.training.recipes import recipe
from pictures import classes


def images(count, wrong):
    """Return images with the value 255 in the column of their class. The last `wrong` images have a wrong label."""
    labels = torch.arange(count) % 10
    pixels = (torch.eye(10) * 255)[labels].byte().view(count, 1, 1, 10).expand(count, 1, 10, 10)
    labels = torch.where(torch.arange(count) >= count - wrong, (labels + 1) % 10, labels)
    return ImagesInMemory(pixels, labels, recipe("digits", ["image_size=10"]).images)


class FirstRow(nn.Module):
    def forward(self, x_NCHW):
        return x_NCHW[:, 0, 0]


def test_counts_every_image():
    """The last batch is smaller than the others."""
    model = FirstRow().train()
    found = evaluate(model, images(300, wrong=3), 10, batch_size=64)
    assert (found.top1_pct, found.images, found.broken) == (99, 300, 0)
    assert found.top5_pct is not None
    assert 99 <= found.top5_pct <= 100
    assert model.training


def test_different_number_of_classes_raises():
    with pytest.raises(ValueError, match="the network has 10 classes, the images have 12"):
        evaluate(FirstRow(), images(20, wrong=0), 12)


def test_only_broken_images_raise(tmp_path):
    for split in ("train", "val"):
        classes(tmp_path, split, ["cat", "dog"])
    for path in tmp_path.glob("val/*/*.png"):
        path.write_bytes(b"")
    test = open_data(tmp_path, recipe("imagenet", ["image_size=8"]), skip_broken=True).test
    with pytest.raises(ValueError, match=r"all 4 test images are broken, the first: .*cat/0\.png is broken"):
        evaluate(FirstRow(), test, 2)


def test_nan_weights_raise():
    """A detector with NaN weights returns no boxes, so that the metric has nothing to check."""
    model = nn.Sequential(FirstRow(), nn.Linear(10, 10))
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"1\.weight of the network has values that are not finite"):
        evaluate(model, images(20, wrong=0), 10)

import torch

from cnnmod.training.data import digits


def test_digits():
    data = digits()
    assert data.test_images.shape == (450, 1, 8, 8)
    assert data.train_images.dtype == torch.float32
    assert (data.train_images.min(), data.train_images.max()) == (0, 1)
    assert torch.bincount(data.test_labels).min() >= 43
    assert torch.equal(data.test_images, digits().test_images)
    train, test = (
        {tuple(image.flatten().tolist()) for image in part} for part in (data.train_images, data.test_images)
    )
    assert not train & test

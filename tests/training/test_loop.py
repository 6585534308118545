import torch

from cnnmod import MoDConfig, convert_
from cnnmod.networks.cifar import digits_resnet
from cnnmod.training.data import digits
from cnnmod.training.loop import accuracy_pct, train


def test_learns_and_repeats_itself():
    data, epochs, weights = digits(), [], []
    for _ in range(2):
        torch.manual_seed(0)
        model = convert_(digits_resnet(), MoDConfig(c=8), example=data.test_images[:1])
        train(model, data, epochs=3, seed=1, progress=lambda: epochs.append(1))
        assert not model.training
        assert accuracy_pct(model, data.test_images, data.test_labels) > 85
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert len(epochs) == 6
    assert torch.equal(*weights)


def test_accuracy_counts_every_image():
    images = torch.eye(3)[torch.arange(300) % 3]
    labels = (torch.arange(300) % 3).clone()
    labels[-1] = 0  # wrong, and in the last, uneven part
    assert accuracy_pct(torch.nn.Identity(), images, labels) == 100 * 299 / 300

"""Networks so small that tests can train, lower and export them."""

from cnnmod import MoDConfig, convert_
from cnnmod.networks import build


def digits_resnet():
    """(N, 1, 8, 8) → (N, 10), of a quarter of ResNet18's width: 0.60 M parameters."""
    return build("resnet18_cifar", layers=(2, 4, 4, 1), channels=(16, 32, 64, 128), in_chans=1, num_classes=10)


def shallow_resnet():
    """The same with 6 of its 11 blocks; 2 become MoD blocks. For what takes time for each layer, as exporting does."""
    return build("resnet18_cifar", layers=(2, 2, 1, 1), channels=(16, 32, 64, 128), in_chans=1, num_classes=10)


def shallow_resnet_mod():
    """The same with MoD blocks, as a factory for the command line."""
    return convert_(shallow_resnet(), MoDConfig(c=4))

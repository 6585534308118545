"""Networks and inputs that several tests share."""

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture
def small_resnet() -> nn.Module:
    """Basic blocks at widths 16 to 128, for (N, 1, 8, 8), with batch norms as after some training."""
    from small import digits_resnet

    return trained_norms_(digits_resnet())


def trained_norms_(model: nn.Module) -> nn.Module:
    """Give batch norms the statistics and weights of a network that has seen data; evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()

import pytest
import torch
from torch import nn

from cnnmod.measure.memory import peak_memory_mib

MIB = 2**18  # number of float32 elements in one MiB


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_peak_memory_equals_manual_value(context):
    x = torch.zeros(MIB)

    def run():
        with context():
            y = x + 1  # 1 MiB in addition to x
            z = torch.cat([y, y])  # 2 MiB more
            del y
            z.add_(1).view(2, -1)[0].mul_(2)

    assert peak_memory_mib(run) == pytest.approx(4, abs=0.01)


def test_weights_and_gradients_are_counted():
    layer, x = nn.Linear(512, 512, bias=False), torch.zeros(1, 512)
    assert peak_memory_mib(lambda: layer(x).sum().backward()) == pytest.approx(2, abs=0.02)

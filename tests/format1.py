"""The network in format1.safetensors. `python tests/format1.py` writes the file."""

from pathlib import Path

import torch
from torch import nn

FILE = Path(__file__).with_name("format1.safetensors")
IMAGES = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8)


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        return (x + self.conv2(self.norm(self.conv1(x)).relu())).relu()


def small_network(width: int) -> nn.Module:
    """(N, 1, 8, 8) → (N, 3)."""
    blocks = nn.Sequential(*(Block(width) for _ in range(4)))
    return nn.Sequential(nn.Conv2d(1, width, 3), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


if __name__ == "__main__":
    from cnnmod import MoDConfig, convert_, save

    torch.manual_seed(0)
    model = convert_(small_network(8), MoDConfig(c=4, reduction=2, identity_start=True), example=IMAGES).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    save(model, FILE, factory="format1:small_network", factory_args={"width": 8})
    print(model(IMAGES).tolist())

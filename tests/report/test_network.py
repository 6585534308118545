import torch

from cnnmod import MoDConfig, convert_
from cnnmod.networks import build
from cnnmod.report.network import network_table


def test_skipped_blocks_are_shown_in_their_module():
    model = build("resnet18_cifar", layers=(1, 3, 1, 1), channels=(8, 8, 8, 8))
    example = torch.rand(1, 3, 32, 32)
    convert_(model, {"layer2.1": "skip", "layer2.2": MoDConfig(c=4)}, example=example)
    rows = network_table("network", model, example).rows
    assert [row[:3] for row in rows if row[0].startswith("layer2")] == [
        ["layer2.0", "1", "standard"],
        ["layer2.1", "1", "skipped"],
        ["layer2.2", "1", "MoD"],
    ]
    assert rows[-1][2] == "1 MoD, 1 skipped"

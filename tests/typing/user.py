# pyright: strict
"""Code of a user. It never runs: test_wheel.py checks its types against the installed wheel, with pyright and mypy."""

from pathlib import Path

import torch
from torch import nn
from typing_extensions import assert_type

import cnnmod
from cnnmod import Comparison, ExportReport, MoDBlock, MoDConfig, Plan
from cnnmod.tuning import Tuned


def main() -> None:
    config = MoDConfig(c=16, candidates=4, identity_start=True)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    image = torch.rand(1, 3, 64, 64)

    planned = cnnmod.plan(network, config, example=image)
    assert_type(planned, Plan)
    print(planned.to_dict(), planned)

    model = cnnmod.convert_(network, config, example=image)
    assert_type(model, nn.Sequential)
    control = cnnmod.control_(model)
    assert_type(control, nn.Sequential)
    cnnmod.convert_(network, {"layer1.1": MoDConfig(c=16), "layer1.2": "skip"})
    assert_type(cnnmod.mod_blocks(model), dict[str, MoDBlock])
    for name, block in cnnmod.mod_blocks(model).items():
        print(name, block.k, block.channels)

    groups = cnnmod.param_groups(model, lr=0.1, weight_decay=1e-4)
    torch.optim.AdamW(groups)

    compared = cnnmod.compare(
        {"dense": network, "mod": model},
        image,
        runtimes=["eager", "onnxruntime"],
        batch_sizes=[1, 8],
    )
    assert_type(compared, Comparison)
    print(compared.row("mod").role, compared.to_dict())

    report = cnnmod.export(model, image, Path("network.onnx"), mean=(0.5, 0.5, 0.5), std=[0.2, 0.2, 0.2], classes=["a"])
    assert_type(report, ExportReport)
    print(report.to_dict())

    tuned = cnnmod.tune(network, image, "tuned", train=[(image, torch.zeros(1))], budget=0.7, configs=[config])
    assert_type(tuned, Tuned)
    print(tuned)

    cnnmod.save(model, "a.safetensors", factory="timm/resnet18")
    assert_type(cnnmod.load_(network, "a.safetensors"), nn.Sequential)
    assert_type(cnnmod.lower(model), nn.Module)
    print(cnnmod.count(model, image))

"""The pages' Python does what they say."""

import re
from pathlib import Path

import pytest
import torch

from cnnmod import convert_, export
from cnnmod.networks import build

PAGE = Path(__file__).parents[1] / "docs" / "deploy.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.split()[1].strip(","))
def test_running_an_exported_file(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (name,) = re.findall(r'"(network\.\w+)"', code)
    kind = {"onnx": "onnx", "xml": "openvino", "pt2": "pt2"}[name.partition(".")[2]]
    export(convert_(build("resnet18")).eval(), torch.rand(1, 3, 224, 224), tmp_path / name, format=kind)
    found = {}
    exec(code, found)
    assert tuple(found["logits"].shape) == (2, 1000)

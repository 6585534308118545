"""Files of torch.export with a torch that cannot save MoD blocks. `.ci/floor` runs these tests, with torch 2.6."""

import re

import pytest
import torch
from torch.torch_version import TorchVersion

from cnnmod import convert_, export
from cnnmod.cli import run
from cnnmod.networks import build

pytestmark = pytest.mark.skipif(TorchVersion(torch.__version__) >= "2.8", reason="torch is 2.8 or newer")
MESSAGE = f"pt2 needs torch 2.8 or newer, not {torch.__version__}"


def test_export_states_the_version_and_writes_nothing(tmp_path):
    model = convert_(build("resnet18"), example=torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=f"^{re.escape(MESSAGE)}$"):
        export(model, torch.rand(1, 3, 64, 64), tmp_path / "network.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ("export", "resnet18_mod", "--size", "64", "--out", "network.pt2"),
        ("compare", "resnet18_mod", "--size", "64", "--runtimes", "pt2", "--out", "result.json"),
    ],
    ids=lambda command: command[0],
)
def test_command_line_states_the_version_in_one_line(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run([*command])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"cnnmod: {MESSAGE}\n"
    assert not list(tmp_path.iterdir())

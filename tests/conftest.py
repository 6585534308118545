"""Networks and inputs that several tests share."""

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

# Set before torch is imported, since each worker of pytest-xdist has one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import nn

collect_ignore = ["bars.py"]  # doctest collection would import it again and register its task twice


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def _torchlib_is_read_once() -> None:
    """Cache the operators that onnxscript parses at each export to ONNX."""
    for name, module in list(sys.modules.items()):
        if name.startswith("onnxscript._framework_apis.") and hasattr(module, "get_torchlib_ops"):
            plain = module.get_torchlib_ops
            if not hasattr(plain, "cache_info"):
                module.get_torchlib_ops = functools.cache(plain)


@pytest.fixture
def small_resnet() -> nn.Module:
    """A ResNet of basic blocks with 16 to 128 channels for images (N, 1, 8, 8), with batch norms as after training."""
    from small import digits_resnet

    return trained_norms_(digits_resnet())


@pytest.fixture
def mistake(capsys, tmp_path, monkeypatch) -> Callable[[list[str], str], None]:
    """Check that the arguments print one line with the message, exit with code 2 and write nothing."""
    from cnnmod.cli import run  # imported here, since the main process of pytest-xdist loads this file but runs no test

    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")

    def check(arguments: list[str], message: str) -> None:
        with pytest.raises(SystemExit) as stop:
            run(arguments)
        out, err = capsys.readouterr()
        assert stop.value.code == 2
        assert out == ""
        assert err.startswith("cnnmod: ")
        assert err.count("\n") == 1
        assert message in err
        assert [*tmp_path.iterdir()] == [tmp_path / "file"]

    return check


@pytest.fixture
def output(capsys) -> Callable[[list[str]], Any]:
    """Run a command with `--json`, and return the values that it prints."""
    from cnnmod.cli import run

    def values(arguments: list[str]) -> Any:
        capsys.readouterr()
        run([*arguments, "--json"])
        return json.loads(capsys.readouterr().out)

    return values


def trained_norms_(model: nn.Module) -> nn.Module:
    """Give batch norms random statistics and weights, as after training, and return the network in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()

"""Networks and inputs that several tests share."""

import functools
import os
import sys
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: each of pytest-xdist's workers has a core

import pytest
import torch
from torch import nn

collect_ignore = ["bars.py"]  # the search for doctests would import it under a second name, and register its task twice


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def _torchlib_is_read_once() -> None:
    """At each export to ONNX, torch has onnxscript parse the source of all its operators, which is always the same."""
    for name, module in list(sys.modules.items()):
        if name.startswith("onnxscript._framework_apis.") and hasattr(module, "get_torchlib_ops"):
            plain = module.get_torchlib_ops
            if not hasattr(plain, "cache_info"):
                module.get_torchlib_ops = functools.cache(plain)


@pytest.fixture
def small_resnet() -> nn.Module:
    """Basic blocks at widths 16 to 128, for (N, 1, 8, 8), with batch norms as after some training."""
    from small import digits_resnet

    return trained_norms_(digits_resnet())


@pytest.fixture
def mistake(capsys, tmp_path, monkeypatch) -> Callable[[list[str], str], None]:
    """Check that these arguments give one line with the message, exit code 2, and write nothing."""
    from cnnmod.cli import run  # here, since pytest-xdist's main process loads this file and runs no test

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


def trained_norms_(model: nn.Module) -> nn.Module:
    """Give batch norms the statistics and weights of a network that has seen data; evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()

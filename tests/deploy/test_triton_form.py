import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cnnmod import MoDConfig, convert_, lower, mod_blocks
from cnnmod.deploy import triton_form
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.triton_form import runs_on
from small import tiny_network

CASES = Path(__file__).with_name("triton_cases.py")
# All other pointers have the dtype of the network.
POINTERS = {"sum_NSC": "*fp32", "score_NK": "*fp32", "index_NK": "*i64"}
TILE = {"CHANNELS": 4, "PIXELS": 256}
LAST = {"CHANNELS": 64, "PIXELS": 16}


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cases_pass(device):
    """Run the cases in the Triton interpreter on the CPU, and compiled on a GPU."""
    pytest.importorskip("triton")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "", str(CASES)]
    environment = os.environ | {"TRITON_INTERPRET": "1" if device == "cpu" else "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=CASES.parents[2], check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        pytest.param("_sum_strips", TILE | {"x_pixel": 1}, marks=pytest.mark.slow),
        ("_sum_strips", LAST | {"x_channel": 1}),
        ("_select", {"BY_INDEX": False, "CHANNELS": 64, "UNITS": 4, "gain_K": None}),
        pytest.param("_select", {"BY_INDEX": True, "CHANNELS": 2048, "UNITS": 4}, marks=pytest.mark.slow),
        pytest.param("_gather", TILE | {"x_pixel": 1, "y_pixel": 1}, marks=pytest.mark.slow),
        ("_gather", LAST | {"x_channel": 1, "y_channel": 1}),
        ("_fuse", TILE | {"x_pixel": 1, "y_pixel": 1, "index_NK": None}),
        pytest.param("_fuse", LAST | {"x_channel": 1, "y_channel": 1}, marks=pytest.mark.slow),
    ],
)
def test_kernels_compile_without_a_gpu(kernel, constants, tmp_path, monkeypatch):
    """The interpreter accepts code that the compiler does not."""
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    function = getattr(importlib.import_module("cnnmod.deploy.triton_kernels"), kernel)
    pointers = dict.fromkeys(("x", "y", "reduce", "expand", "gain_K"), "*bf16") | POINTERS
    types = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in function.arg_names}
    source = triton.compiler.ASTSource(function, types, constants)
    target = triton.backends.compiler.GPUTarget("cuda", 80, 32)
    assert triton.compile(source, target=target).asm["cubin"]


def test_unusable_kernels_log_one_warning(monkeypatch, caplog):
    """The eager form is used, and one warning is logged for all blocks."""
    monkeypatch.setattr(triton_form, "_DEVICE", "cpu")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "cnnmod.deploy.triton_kernels", raising=False)
    runs_on.cache_clear()
    config = MoDConfig(c=4, fuse_to="original")  # not supported by the fused operator
    model = convert_(tiny_network(), config, example=torch.rand(1, 1, 8, 8))
    with caplog.at_level(logging.WARNING, "cnnmod"):
        lowered = lower(model, example=torch.rand(1, 1, 8, 8))
    runs_on.cache_clear()
    assert [type(block) for block in mod_blocks(lowered).values()] == [EagerForm] * len(mod_blocks(model))
    assert caplog.text.count("Triton's kernels do not run on cpu") == 1
    assert "MoD blocks run as several operators" in caplog.text

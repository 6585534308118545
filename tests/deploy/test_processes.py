"""Lowered networks can be copied, saved and sent to other processes, with and without a compiler."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from cnnmod import MoDConfig, convert_, lower
from cnnmod.deploy.fused import is_compiled
from conftest import trained_norms_
from small import tiny_network

SMALL = torch.rand(4, 1, 8, 8)
RUN = """
import sys, torch
saved = torch.load(sys.argv[1], weights_only=False)
with torch.inference_mode():
    output = saved["lowered"](saved["x"])
torch.testing.assert_close(output, saved["expected"], atol=1e-5, rtol=1e-5)
print(torch._C._dispatch_has_kernel_for_dispatch_key("cnnmod::mod_block_", "CPU"))
"""


@pytest.fixture(params=["eager", pytest.param("compile", marks=pytest.mark.slow)])
def saved(request):
    model = trained_norms_(convert_(tiny_network(), MoDConfig(c=4), example=SMALL))
    lowered = lower(model, request.param, example=SMALL)
    with torch.inference_mode():
        return {"lowered": lowered, "x": SMALL, "expected": model(SMALL).clone()}


def agrees(saved):
    torch.set_num_threads(1)  # OpenMP threads do not work after a fork
    with torch.inference_mode():
        torch.testing.assert_close(saved["lowered"](saved["x"]), saved["expected"], atol=1e-5, rtol=1e-5)


def test_copied_and_pickled_networks_compute_the_same(saved):
    for lowered in (copy.deepcopy(saved["lowered"]), pickle.loads(pickle.dumps(saved["lowered"]))):
        assert [type(one) for one in lowered.modules()] == [type(one) for one in saved["lowered"].modules()]
        agrees({**saved, "lowered": lowered})


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_saved_network_runs_in_another_process(saved, compiler, tmp_path):
    torch.save(saved, tmp_path / "lowered.pt")
    nowhere = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment = os.environ | ({} if compiler else nowhere)
    command = [sys.executable, "-c", RUN, str(tmp_path / "lowered.pt")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{compiler and is_compiled()}\n"
    assert ("MoD blocks run as several operators" in done.stderr) == (done.stdout == "False\n")


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_lowered_network_runs_in_child_processes(saved, method):
    child = multiprocessing.get_context(method).Process(target=agrees, args=(saved,))
    child.start()
    child.join(120)
    assert child.exitcode == 0


class Predictions(Dataset):
    def __init__(self, saved):
        self.saved = saved

    def __len__(self):
        return len(self.saved["x"])

    def __getitem__(self, place):
        with torch.inference_mode():
            return self.saved["lowered"](self.saved["x"][place][None]).clone()


def test_lowered_network_runs_in_data_loader_workers(saved):
    found = torch.cat([*DataLoader(Predictions(saved), batch_size=None, num_workers=1)])
    torch.testing.assert_close(found, saved["expected"], atol=1e-5, rtol=1e-5)

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cuda_cases import arguments_of, check, random_case
from host_kernels import H100, HAS_COMPILER, Host
from torch import nn

from cnnmod import MoDBlock, MoDConfig
from cnnmod.deploy.cuda.block import Block
from cnnmod.deploy.cuda.plan import Limits

LIMITS = {
    "H100": H100,
    "little shared memory": Limits(shared_bytes=40 * 1024, multiprocessors=132),
    "no shared memory": Limits(shared_bytes=0, multiprocessors=132),
    "one multiprocessor": Limits(shared_bytes=227 * 1024, multiprocessors=1),
}
TILES = ("pool", "select_channels", "tiles", "add_result")
KERNELS = {  # that must be among those of the thousand cases; torch's operators are the empty tuple
    "H100": {("mod_block",), ("pool", "mod_block")},
    "little shared memory": {("mod_block",), TILES, ()},
    "no shared memory": {()},
    "one multiprocessor": {("mod_block",), TILES},
}
pytestmark = pytest.mark.skipif(not HAS_COMPILER, reason="no g++ here")


def results(case, limits):
    """Return the results of all loops forward and backward, and the names of the kernels."""
    outcomes, hosts = [], [Host(backward, limits) for backward in (False, True)]
    for host in hosts:
        outcomes.append(case.x_NCHW.clone(memory_format=torch.preserve_format))
        host.mod_block_(outcomes[-1], *case.arguments)
    return *outcomes, hosts[0].names


def agrees(seed, limits):
    """Check a case, and return the kernels that computed it. torch's operators have no kernel of ours."""
    case = random_case(seed)
    forward, backward, names = results(case, limits)
    check(case, forward)
    assert torch.equal(forward.nan_to_num(7), backward.nan_to_num(7)), case.name
    return tuple(names)


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("seeds", [range(16), pytest.param(range(16, 1016), marks=pytest.mark.slow)], ids=str)
def test_random_cases_equal_the_training_form(seeds, limits):
    computed = {agrees(seed, limits) for seed in seeds}
    if len(seeds) > 100:
        assert computed >= KERNELS[next(name for name, value in LIMITS.items() if value == limits)]


@pytest.mark.parametrize("seed", [0, 1])
def test_other_channels_are_unchanged_bit_for_bit(seed):
    case = random_case(seed, dtype=torch.bfloat16)
    forward, _, _ = results(case, H100)
    changed = (forward != case.x_NCHW).any(dim=3).any(dim=2).sum(dim=1)
    assert changed.max() <= case.block.k


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given[0].double(), r"a weight is not torch\.float32 on cpu"),
        (lambda given: given[0][:, :-1], "cannot be selected"),
    ],
    ids=["data type", "shape"],
)
def test_weights_that_do_not_fit_raise(change, message):
    case = random_case(3, dtype=torch.float32)
    arguments = (change(case.arguments), *case.arguments[1:])
    with pytest.raises(RuntimeError, match=message):
        Host().mod_block_(case.x_NCHW, *arguments)


def test_images_with_gaps_raise():
    case = random_case(3, dtype=torch.float32)
    wide = torch.zeros(*case.x_NCHW.shape[:3], 2 * case.x_NCHW.shape[3] + 2)[..., ::2]
    with pytest.raises(RuntimeError, match="contiguous or channels last"):
        Host().mod_block_(wide, *arguments_of(case.block))


def test_no_images_are_no_error():
    case = random_case(3, dtype=torch.float32)
    host = Host()
    host.mod_block_(case.x_NCHW[:0], *case.arguments)
    assert host.names == []


@pytest.mark.slow
def test_no_memory_is_accessed_out_of_bounds():
    """The cases run in kernels with AddressSanitizer, which finds an error if shared memory is four bytes too small."""
    tests = Path(__file__).parents[2]
    libraries = [_library_of_compiler(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so.6")]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:protect_shadow_gap=0",
        "PYTHONPATH": str(tests),
    }
    for missing_bytes, message in ((0, "no error"), (4, "heap-buffer-overflow")):
        command = [sys.executable, str(Path(__file__).with_name("sanitized.py")), "60", str(missing_bytes)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert message in done.stdout + done.stderr
        assert (done.returncode == 0) == (missing_bytes == 0)


def _library_of_compiler(name):
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_weights_in_the_channels_last_format_are_not_copied():
    """A copy would be a kernel of its own in each call."""
    case = random_case(3, dtype=torch.float32)
    case.block.to(memory_format=torch.channels_last)
    x_NCHW = case.x_NCHW.contiguous(memory_format=torch.channels_last)
    with torch.profiler.profile() as profile:
        Host().mod_block_(x_NCHW, *arguments_of(case.block))
    assert not {"aten::copy_", "aten::clone"} & {event.key for event in profile.key_averages()}


def test_a_call_is_planned_once(monkeypatch):
    case = random_case(3, dtype=torch.float32)
    Host().mod_block_(case.x_NCHW.clone(memory_format=torch.preserve_format), *case.arguments)
    monkeypatch.setattr(Block, "plan", None)
    result = case.x_NCHW.clone(memory_format=torch.preserve_format)
    Host().mod_block_(result, *case.arguments)
    check(case, result)


def test_weights_with_gaps_are_copied_in_each_call():
    case = random_case(3, dtype=torch.float32)
    reduce, *others = case.arguments
    wide = torch.zeros(reduce.size(0), 2 * reduce.size(1))
    for factor in (1, -1):
        case.block.selector.reduce.weight.mul_(factor)
        wide[:, ::2] = case.block.selector.reduce.weight
        result = case.x_NCHW.clone(memory_format=torch.preserve_format)
        Host().mod_block_(result, wide[:, ::2], *others)
        check(case, result)


@pytest.mark.parametrize("seed", range(3))
def test_vectors_are_not_loaded_from_addresses_that_are_not_aligned(seed):
    """The images and the selector start one element after an aligned address."""
    torch.manual_seed(seed)
    conv_block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))
    block = MoDBlock(conv_block, channels=64, k=8, config=MoDConfig(reduction=4)).eval()
    block.requires_grad_(False)
    x_NCHW = _shifted(torch.randn(2, 64, 5, 5).contiguous(memory_format=torch.channels_last))
    reduce, expand, *others = arguments_of(block)
    result = x_NCHW.clone(memory_format=torch.preserve_format)
    Host().mod_block_(result, reduce, expand, *others)
    shifted = _shifted(x_NCHW)
    Host().mod_block_(shifted, _shifted(reduce), _shifted(expand), *others)
    assert shifted.data_ptr() % 16 == 4
    torch.testing.assert_close(shifted, result)
    torch.testing.assert_close(result, block(x_NCHW), atol=1e-5, rtol=1e-5)


def _shifted(tensor):
    """Return a copy with the same strides, one element after the start of its storage."""
    storage = torch.empty(tensor.numel() + 1)
    return storage.as_strided(tensor.shape, tensor.stride(), 1).copy_(tensor)

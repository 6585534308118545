"""Load broken checkpoints."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cnnmod import convert_, load_, save
from cnnmod.networks import build, load
from fuzz.checks import SEEDS, fault_of, fault_of_command, untouched
from fuzz.mutate import LFS_POINTER, mutated_safetensors

NETWORK = {"num_classes": 10, "in_chans": 1, "channels": [8, 8, 8, 8]}


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "best.safetensors"
    save(build("resnet18_cifar_mod", **NETWORK), path, factory="cnnmod/resnet18_cifar_mod", factory_args=NETWORK)
    return path


@pytest.mark.parametrize("seeds", SEEDS)
def test_broken_checkpoint_raises_one_line(seeds, checkpoint):
    content, model = checkpoint.read_bytes(), build("resnet18_cifar_mod", **NETWORK)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    faults = {}
    for seed in seeds:
        checkpoint.write_bytes(mutated_safetensors(content, seed))
        with untouched(checkpoint.parents[1]):
            faults[seed] = fault_of(lambda: load_(model, checkpoint)) or fault_of(lambda: load(checkpoint))
    assert not {seed: fault for seed, fault in faults.items() if fault}
    assert model.state_dict().keys() == before.keys()


@pytest.mark.parametrize("seeds", SEEDS)
def test_broken_checkpoint_exits_2_on_the_command_line(seeds, checkpoint, capsys, monkeypatch):
    content = checkpoint.read_bytes()
    monkeypatch.chdir(checkpoint.parent)
    faults = {}
    for seed in seeds:
        checkpoint.write_bytes(mutated_safetensors(content, seed))
        with untouched(checkpoint.parents[1]):  # valid checkpoints fail too, since the output folder does not exist
            faults[seed] = fault_of_command(
                ["export", str(checkpoint), "--out", "nowhere/network.pt2", "--format", "pt2", "--size", "8", "8"],
                capsys,
            )
    assert not {seed: fault for seed, fault in faults.items() if fault}


def test_invalid_files_raise_one_line(checkpoint, capsys):
    content, out = checkpoint.read_bytes(), checkpoint.parent / "network.onnx"
    folder = checkpoint.parent / "folder.safetensors"
    folder.mkdir()
    model = convert_(build("resnet18_cifar", **NETWORK))
    for name, broken in {
        "empty": b"",
        "LFS pointer": LFS_POINTER,
        "not UTF-8": b"\xff\xfe" * 100,
        "half": content[: len(content) // 2],
        "a long header": (2**62).to_bytes(8, "little") + content[8:],
        "deep": (400_002).to_bytes(8, "little") + b"[" * 200_001 + b"]" * 200_001,
    }.items():
        path = checkpoint.parent / f"{name}.safetensors"
        path.write_bytes(broken)
        with pytest.raises(
            ValueError, match=r"truncated or not a safetensors file|is empty|is a pointer of Git LFS"
        ) as caught:
            load_(model, path)
        assert "\n" not in str(caught.value)
        assert fault_of_command(["export", str(path), "--out", str(out)], capsys) is None
    with pytest.raises(OSError, match="folder"):
        load(folder)
    assert fault_of_command(["export", str(folder), "--out", str(out)], capsys) is None
    assert not out.exists()


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_weights_of_another_dtype_class_raise(dtype, tmp_path):
    """Other floating-point dtypes are converted. Other dtypes are refused."""
    model, path = build("resnet18_cifar_mod", **NETWORK), tmp_path / "a.safetensors"
    save(model, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    for wanted in (dtype, torch.float16, torch.float64):
        tensors = model.state_dict()
        save_file(tensors | {"fc.weight": tensors["fc.weight"].to(wanted)}, path, metadata)
        if wanted != dtype:
            load_(model, path)
            continue
        with pytest.raises(ValueError, match=rf"fc\.weight is {dtype} in the file, torch\.float32 in the model"):
            load_(model, path)

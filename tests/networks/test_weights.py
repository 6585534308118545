"""State dicts of other programs: every file that a user may give, and every mistake."""

import os
import pickle
import re
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import cnnmod
from cnnmod.networks.weights import Head, load_weights_, read_weights
from small import tiny_network, tiny_network_mod


class Code:
    """An object whose pickle runs code when it is loaded."""

    def __reduce__(self):
        return os.system, ("exit 1",)


def with_classes(classes: int) -> nn.Module:
    model = tiny_network()
    model.head = nn.Linear(16, classes)
    return model


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_loads_a_state_dict(suffix, tmp_path):
    model, path = tiny_network(), tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(model.state_dict(), path)
    fresh = tiny_network()
    assert load_weights_(fresh, path) is None
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("model", "state_dict")], ids=str)
def test_wrappers_and_prefixes_are_removed(keys, tmp_path):
    state = tiny_network().state_dict()
    content = {f"_orig_mod.module.{name}": value for name, value in state.items()}
    for key in keys:
        content = {"epoch": 3, key: content}
    torch.save(content, tmp_path / "weights.pth")
    assert read_weights(tmp_path / "weights.pth").keys() == state.keys()


def test_file_without_num_batches_tracked_is_accepted(tmp_path):
    state = {name: value for name, value in tiny_network().state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "weights.pth")
    assert load_weights_(tiny_network(), tmp_path / "weights.pth") is None


def test_head_with_other_classes_is_kept_if_this_is_allowed(tmp_path):
    torch.save(with_classes(7).state_dict(), tmp_path / "weights.pth")
    model = tiny_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"head\.weight, head\.bias have other shapes: \(7, 16\) in the file, \(10, 16"
    ):
        load_weights_(model, tmp_path / "weights.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    head = load_weights_(model, tmp_path / "weights.pth", new_head=True)
    assert head == Head(("head.weight", "head.bias"), 7, 10)
    assert torch.equal(model.head.weight, before["head.weight"])
    assert not torch.equal(model.stem.weight, before["stem.weight"])


@pytest.mark.parametrize("new_head", [False, True])
def test_weights_of_another_network_raise(new_head, tmp_path):
    torch.save(tiny_network(8).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(
        ValueError, match=r"of another network: stem\.weight, .* and \d+ more have other shapes: \(8, 1"
    ):
        load_weights_(tiny_network(), tmp_path / "weights.pth", new_head=new_head)
    torch.save(nn.Conv2d(1, 1, 1).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"it has no stem\.weight, .* and \d+ more; Sequential has no weight, bias"):
        load_weights_(tiny_network(), tmp_path / "weights.pth", new_head=new_head)


def write(kind, path):
    """Write a file that is not a state dict."""
    if kind == "web page":
        path.write_text("\n<!DOCTYPE html>\n<html></html>")
    elif kind == "LFS pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        torch.save(tiny_network().state_dict(), path)
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "text":
        path.write_text("weights")
    elif kind == "header":
        path.write_bytes(struct.pack("<Q", 4) + b"null")
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(Code()))
    elif kind == "checkpoint":
        cnnmod.save(tiny_network_mod(), path)
    else:
        torch.save(
            {"code": Code(), "model": tiny_network(), "tensor": torch.ones(1), "others": {"epoch": 1}}[kind], path
        )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("web page", "is a web page (HTML), not a file of weights"),
        ("LFS pointer", "is a pointer of Git LFS"),
        ("empty", "is empty"),
        ("truncated", "is damaged"),
        ("text", "is damaged, or neither a file of torch.save nor of safetensors"),
        ("header", "is damaged, or neither a file of torch.save nor of safetensors"),
        ("plain pickle", "is damaged, or a pickle that torch.save did not write"),
        ("checkpoint", "is the checkpoint of a MoD network or a control"),
        ("code", "is a pickle with code (posix.system), which is not run"),
        ("model", "is a pickle with code (torch.nn.modules.container.Sequential)"),
        ("tensor", "contains a Tensor, not a state dict"),
        ("others", "is not a state dict of tensors, and has none at 'state_dict' or 'model'; it contains epoch"),
    ],
)
def test_other_files_raise_one_line_that_says_what_they_are(kind, message, tmp_path):
    write(kind, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=rf"^{re.escape(f'{tmp_path}/weights.pth {message}')}[^\n]*$"):
        read_weights(tmp_path / "weights.pth")

"""read_weights, load_weights_: load a state dict that another program wrote into a network. No code in a file runs."""

import json
import os
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from cnnmod.records.tensors import read_tensors
from cnnmod.records.weights_file import PICKLES, read_start

_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_MOST_NAMES = 3


class Head(NamedTuple):
    """The last layer of a network, in a file with another number of classes.

    Attributes:
        names: Its tensors.
        file_classes: The number of classes in the file.
        classes: The number of classes of the network.
    """

    names: tuple[str, ...]
    file_classes: int
    classes: int


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict from a file of `torch.save` or safetensors.

    A state dict inside a dictionary under the key `state_dict` or `model` is found. The prefix `module.` of
    DistributedDataParallel and `_orig_mod.` of torch.compile are removed from the names.

    Args:
        path: The file. A pickle is read with `weights_only=True`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file is a web page, contains code, is damaged, or has no state dict.

    Examples:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.pth"
        >>> torch.save({"state_dict": {"module.weight": torch.ones(2)}}, path)
        >>> read_weights(path)
        {'weight': tensor([1., 1.])}
    """
    path = Path(path)
    state = _read_pickle(path) if read_start(path).startswith(PICKLES) else _read_safetensors(path)
    while inner := [state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)]:
        state = inner[0]
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        listed = ", ".join(map(str, [*state][:5])) or "nothing"
        raise ValueError(
            f"{path} is not a state dict of tensors, and has none at 'state_dict' or 'model'; it contains {listed}"
        )
    names = [str(name) for name in state]
    tensors = [*state.values()]
    while prefix := next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in names)), None):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, tensors, strict=True))


def other_head(model: nn.Module, tensors: Mapping[str, Tensor]) -> Head | None:
    """Return the head of the network if it has another number of classes in the file, and otherwise `None`.

    The head is found by shape: tensors that differ only in the first dimension, all by the same two numbers.
    """
    differing = {
        name: (tuple(tensors[name].shape), tuple(value.shape))
        for name, value in model.state_dict().items()
        if name in tensors and tensors[name].shape != value.shape
    }
    counts = {(theirs[:1], ours[:1]) for theirs, ours in differing.values()}
    same_rest = all(theirs[1:] == ours[1:] for theirs, ours in differing.values())
    if len(counts) != 1 or not same_rest:
        return None
    theirs, ours = counts.pop()
    return Head(tuple(differing), theirs[0], ours[0]) if theirs and ours else None


def load_weights_(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    new_head: bool = False,
    tensors: Mapping[str, Tensor] | None = None,
) -> Head | None:
    """Load a state dict into a network, in place. All names and shapes must match.

    Args:
        model: The network.
        path: The file, as `read_weights` takes it.
        new_head: Whether a head with another number of classes in the file is accepted. The network then keeps its own
            weights there.
        tensors: The result of `read_weights`, if it is already known.

    Returns:
        The head that was not loaded, or `None` if everything was loaded.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file is of another network. The message names the tensors that do not fit. The model is
            unchanged.

    Examples:
        >>> import pathlib, tempfile, timm
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.pth"
        >>> torch.save(timm.create_model("resnet18").state_dict(), path)
        >>> load_weights_(timm.create_model("resnet18", num_classes=10), path, new_head=True)
        Head(names=('fc.weight', 'fc.bias'), file_classes=1000, classes=10)
    """
    tensors = read_weights(path) if tensors is None else tensors
    head = other_head(model, tensors)
    state = model.state_dict()
    dropped = head.names if head is not None and new_head else ()
    if reasons := [*_differences(state, tensors, dropped, type(model).__name__)]:
        raise ValueError(f"{path} is of another network: {'; '.join(reasons)}")
    for name in state:
        if name in tensors and name not in dropped:
            state[name] = tensors[name]
    model.load_state_dict(state)
    return head


def _differences(
    state: Mapping[str, Any], tensors: Mapping[str, Tensor], dropped: tuple[str, ...], network: str
) -> Iterator[str]:
    # Files of old versions of torch have no num_batches_tracked.
    if missing := [name for name in state if name not in tensors and not name.endswith("num_batches_tracked")]:
        yield f"it has no {_listed(missing)}"
    if unexpected := [name for name in tensors if name not in state]:
        yield f"{network} has no {_listed(unexpected)}"
    shapes = {name: (tuple(tensors[name].shape), tuple(state[name].shape)) for name in tensors if name in state}
    differing = [name for name, (theirs, ours) in shapes.items() if theirs != ours and name not in dropped]
    if differing:
        theirs, ours = shapes[differing[0]]
        verb = "has another shape" if len(differing) == 1 else "have other shapes"
        yield f"{_listed(differing)} {verb}: {theirs} in the file, {ours} in {network}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        metadata, state = read_tensors(path)
        structure = json.loads(metadata.get("cnnmod", "{}"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged, or neither a file of torch.save nor of safetensors: {' '.join(str(error).split())}"
        ) from error
    if isinstance(structure, dict) and structure.get("blocks"):
        raise ValueError(
            f"{path} is the checkpoint of a MoD network or a control, but these weights are for the dense network; "
            "give a checkpoint in place of a network's name"
        )
    return state


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as for TorchScript, which is then an error
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (code := _GLOBAL.search(str(error))) is None:
            raise ValueError(f"{path} is damaged, or a pickle that torch.save did not write") from error
        raise ValueError(
            f"{path} is a pickle with code ({code[1]}), which is not run; save a state dict instead: "
            "torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # torch raises many types for a damaged file
        reason = "a TorchScript archive" if "TorchScript" in str(error) else "damaged"
        raise ValueError(f"{path} is {reason}, not a file of torch.save(model.state_dict(), path)") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} contains a {type(state).__name__}, not a state dict")
    return state

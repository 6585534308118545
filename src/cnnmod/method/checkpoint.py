"""save, load_: a network's weights and its MoD structure in one safetensors file; never a pickle."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from cnnmod.method.bare import check_bare
from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block, Call, trace_calls
from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import Skip, control_, install_, mod_blocks, swap_
from cnnmod.method.discover import discover
from cnnmod.method.make import make_mod_block
from cnnmod.records.files import write_whole

ModelT = TypeVar("ModelT", bound=nn.Module)
_FORMAT = 1
_FACTORY = re.compile(r"(timm|torchvision|cnnmod)/[^/:]+|[\w.]+:\w+")
_PICKLES = {b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6))}  # how torch.save's files begin


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    factory: str | None = None,
    factory_args: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the model's weights, and which of its blocks are MoD blocks, to a safetensors file.

    The file is written beside `path` and renamed: it is there whole or not at all. A dense network can be saved too,
    and so can a control.
    Save the model itself, not what `lower` made of it.

    Args:
        model: The network.
        path: The file.
        factory: How the network was built before it was converted: `"timm/NAME"`, `"torchvision/NAME"`,
            `"cnnmod/NAME"` or `"package.module:factory"`. Then `cnnmod.networks.load(path)` brings it back alone.
        factory_args: What the factory was given: JSON values.

    Raises:
        ValueError: The model is wrapped (DDP, torch.compile, a moving average), its weights are not in plain tensors
            (sharded, quantized, offloaded), or `factory` or its arguments have another form.
        OSError: The folder does not exist, or the file cannot be written.

    Examples:
        >>> import cnnmod, tempfile, timm
        >>> path = Path(tempfile.mkdtemp()) / "resnet18_mod.safetensors"
        >>> save(cnnmod.convert_(timm.create_model("resnet18")), path)
        >>> model = load_(timm.create_model("resnet18"), path)
    """
    check_bare(model)
    structure: dict[str, Any] = {
        "format": _FORMAT,
        "blocks": {name: config.to_dict() for name, config in _configs(model).items()},
    }
    if _is_control(model):
        structure["control"] = True
    if factory is not None:
        if not _FACTORY.fullmatch(factory):
            raise ValueError(
                f"factory must be timm/NAME, torchvision/NAME, cnnmod/NAME or module:name, not {factory!r}"
            )
        structure["factory"] = {"name": factory, "args": dict(factory_args)}
    try:
        metadata = {"cnnmod": json.dumps(structure)}
    except TypeError as error:
        raise ValueError(f"factory_args must be JSON values, not {dict(factory_args)!r}") from error
    if lowered := [name for name, block in mod_blocks(model).items() if type(block) is not MoDBlock]:
        raise ValueError(f"{lowered[0]} is in a runtime's form: save the model that was given to lower")
    state = _plain_state(model)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    write_whole(path, serialize(tensors, metadata=metadata))


def load_(model: ModelT, path: str | os.PathLike[str], *, example: Tensor | None = None) -> ModelT:
    """Convert the model as the file says, in place, then load the file's weights strictly.

    Args:
        model: A network of the kind that was saved: still dense, or already converted in the same way.
        path: A file that `save` wrote.
        example: As for `convert_`.

    Returns:
        The same model.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no file of cnnmod's, of a later format, or of another network; then with the first tensor
            that differs. The model is then what it was.
    """
    check_bare(model)
    path = Path(path)
    structure, tensors = _read(path)
    blocks = structure.blocks
    replaced: dict[str, nn.Module] = {}
    if blocks and not _configs(model):
        here = _blocks(model, example)
        if missing := [name for name in blocks if name not in here]:
            raise ValueError(f"{path} is of another network: {missing[0]} is a MoD block in the file, no block here")
        for inner in blocks:
            if any(inner.startswith(f"{name}.") for name in blocks):
                raise ValueError(f"{path}: {inner} lies inside another of its MoD blocks")
        built = [(here[name], make_mod_block(here[name], config)) for name, config in blocks.items()]
        replaced = install_(model, built, example)
    try:
        if structure.control and replaced:
            control_(model)
        _check_fits(path, structure, tensors, model)
        state = model.state_dict()  # holds the versions of its layers, by which torch loads some of them
        for name in state:
            state[name] = tensors[name]
        model.load_state_dict(state)
    except BaseException:  # an interrupt too
        swap_(model, replaced)
        raise
    return model


def _blocks(model: nn.Module, example: Tensor | None) -> dict[str, Block]:
    """All that may be a block of the file: the blocks of the network's modules, and parts of them."""
    calls = trace_calls(model, example)
    blocks = {
        name: Block(name, model.get_submodule(name), call) for name, call in calls.items() if isinstance(call, Call)
    }
    return blocks | {block.name: block for module in discover(model, calls) for block in module}


class Structure(NamedTuple):
    """What a file says of its network.

    Attributes:
        blocks: The MoD blocks' names, each with its config.
        control: Whether it is a control, whose MoD blocks are taken out.
        factory: The factory's name that `save` was given.
        factory_args: Its arguments.
    """

    blocks: dict[str, MoDConfig]
    control: bool
    factory: str | None
    factory_args: dict[str, Any]


def read_structure(path: str | os.PathLike[str]) -> Structure:
    """What a file says of its network, without reading its weights; errors as for `load_`."""
    return _read(Path(path), tensors=False)[0]


def _read(path: Path, tensors: bool = True) -> tuple[Structure, dict[str, Tensor]]:
    with path.open("rb") as file:
        start = file.read(2)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118  no mapping
    except SafetensorError as error:
        if start in _PICKLES:
            message = f"{path} is a pickle (torch.save), which may run code; cnnmod reads what cnnmod.save writes"
        else:
            message = f"{path} is truncated or no safetensors file: {' '.join(str(error).split())}"
        raise ValueError(message) from error
    if "cnnmod" not in metadata:
        raise ValueError(f"{path} was not written by cnnmod.save: its metadata has no entry 'cnnmod'")
    try:
        structure = json.loads(metadata["cnnmod"])
        if structure["format"] <= _FORMAT:
            blocks = {name: MoDConfig.from_dict(values) for name, values in structure["blocks"].items()}
            factory = structure.get("factory", {"name": None, "args": {}})
            if not (factory["name"] is None or _FACTORY.fullmatch(factory["name"])):
                raise ValueError(factory["name"])
            if not isinstance(factory["args"], dict):
                raise ValueError(factory["args"])
            control = bool(structure.get("control"))
            return Structure(blocks, control, factory["name"], dict(factory["args"])), state
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: the entry 'cnnmod' of its metadata is not what cnnmod.save writes") from error
    raise ValueError(f"{path} has format {structure['format']}; this cnnmod reads formats up to {_FORMAT}")


def _configs(model: nn.Module) -> dict[str, MoDConfig]:
    """Of the MoD blocks, or of what stands in their places in a control."""
    return {name: layer.config for name, layer in model.named_modules() if isinstance(layer, (MoDBlock, Skip))}


def _is_control(model: nn.Module) -> bool:
    return any(isinstance(layer, Skip) for layer in model.modules())


def _plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state; `ValueError` for what a safetensors file cannot hold."""
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} in the model's state is no tensor, which safetensors cannot hold")
        if is_traceable_wrapper_subclass(value):
            raise ValueError(f"{name} is a {type(value).__name__}, not a plain tensor that safetensors can hold")
        if value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"{name} is sparse or quantized, which safetensors cannot hold")
        if value.is_meta:
            raise ValueError(f"{name} is on the meta device; build the model on a real one, or call to_empty first")
    return state


def _check_fits(path: Path, structure: Structure, tensors: dict[str, Tensor], model: nn.Module) -> None:
    blocks, here = structure.blocks, _configs(model)
    if blocks and here and structure.control != _is_control(model):
        kinds = ("a MoD network", "a control")
        raise ValueError(f"{path} is of {kinds[structure.control]}, the model is {kinds[not structure.control]}")
    if list(here) != list(blocks):
        raise ValueError(f"{path} has MoD blocks {list(blocks)}, the model {list(here)}")
    for name, config in blocks.items():
        if here[name] != config:
            raise ValueError(f"{path} was saved with {config} at {name}, the model has {here[name]}")
    state = _plain_state(model)
    for name in [*state, *tensors]:
        ours, theirs = (tuple(side[name].shape) if name in side else "missing" for side in (state, tensors))
        if ours != theirs:
            raise ValueError(f"{path} is of another network: {name} is {theirs} in the file, {ours} in the model")
    for name, tensor in state.items():  # torch would convert integers to floats and back, and drop imaginary parts
        ours, theirs = tensor.dtype, tensors[name].dtype
        if _kind(ours) != _kind(theirs):
            raise ValueError(f"{path} is of another network: {name} is {theirs} in the file, {ours} in the model")


def _kind(dtype: torch.dtype) -> tuple[bool, bool, bool]:
    return dtype.is_floating_point, dtype.is_complex, dtype == torch.bool

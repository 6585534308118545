"""save, load_: a network's weights and its MoD structure in one safetensors file. No pickle is written or read."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.convert import mod_blocks, swap_
from cnnmod.method.restructure import configs_of, is_control, restructure_
from cnnmod.method.skip import skipped_blocks
from cnnmod.method.structure import FACTORY, FORMAT, Structure, read_file, shape_difference
from cnnmod.method.unwrapped import check_unwrapped
from cnnmod.records.files import write_whole

ModelT = TypeVar("ModelT", bound=nn.Module)


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    factory: str | None = None,
    factory_args: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the model's weights and the names and configs of its MoD blocks to a safetensors file.

    The file is written under a temporary name and then renamed, so `path` never holds an incomplete file. Dense
    networks and controls can be saved too. Save the model itself, not the result of `lower`.

    Args:
        model: The network.
        path: The file.
        factory: The function that built the network before it was converted: `"timm/NAME"`, `"torchvision/NAME"`,
            `"cnnmod/NAME"` or `"package.module:factory"`. With it, `cnnmod.networks.load(path)` can rebuild the network
            from the file.
        factory_args: The arguments of the factory: JSON values.

    Raises:
        ValueError: If the model is wrapped (DDP, torch.compile, a moving average), if its weights are not plain tensors
            (sharded, quantized, offloaded), or if `factory` or `factory_args` is not accepted.
        OSError: If the folder does not exist or the file cannot be written.

    Examples:
        >>> import cnnmod, tempfile, timm
        >>> path = Path(tempfile.mkdtemp()) / "resnet18_mod.safetensors"
        >>> save(cnnmod.convert_(timm.create_model("resnet18")), path)
        >>> model = load_(timm.create_model("resnet18"), path)
    """
    check_unwrapped(model)
    skipped = skipped_blocks(model)
    structure: dict[str, Any] = {
        "format": FORMAT if skipped else 1,
        "blocks": {name: config.to_dict() for name, config in configs_of(model).items()},
    }
    if skipped:
        structure["skipped"] = skipped
    if is_control(model):
        structure["control"] = True
    if factory is not None:
        if not FACTORY.fullmatch(factory):
            raise ValueError(
                f"factory must be timm/NAME, torchvision/NAME, cnnmod/NAME or package.module:factory, not {factory!r}"
            )
        structure["factory"] = {"name": factory, "args": dict(factory_args)}
    try:
        metadata = {"cnnmod": json.dumps(structure)}
    except TypeError as error:
        raise ValueError(f"factory_args must be JSON values, not {dict(factory_args)!r}") from error
    if lowered := [name for name, block in mod_blocks(model).items() if type(block) is not MoDBlock]:
        raise ValueError(f"{lowered[0]} was changed by cnnmod.lower; save the model that was passed to lower")
    state = _plain_state(model)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    write_whole(path, serialize(tensors, metadata=metadata))


def load_(model: ModelT, path: str | os.PathLike[str], *, example: Tensor | None = None) -> ModelT:
    """Convert the model in place as the file says, then load the file's weights. All names and shapes must match.

    Args:
        model: The network that was saved, either dense or already converted with the same config.
        path: A file that `save` wrote.
        example: An input (N, C, H, W), as for `convert_`.

    Returns:
        The same model.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If `save` did not write the file, its format is newer than this cnnmod, or it belongs to another
            network. In the last case, the message names the first tensor that differs. The model is unchanged.
    """
    check_unwrapped(model)
    path = Path(path)
    structure, tensors = read_file(path)
    replaced = restructure_(model, structure, path, example)
    try:
        _check_fits(path, structure, tensors, model)
        state = model.state_dict()  # its metadata has the versions of layers, which some layers need
        for name in state:
            state[name] = tensors[name]
        model.load_state_dict(state)
    except BaseException:  # including KeyboardInterrupt
        swap_(model, replaced)
        raise
    return model


def load_mod_blocks_(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load only the weights of the MoD blocks from a file of `save`.

    Args:
        model: A MoD network.
        path: The file of a network with the same MoD blocks.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If `save` did not write the file, or it has other MoD blocks. The model is unchanged.

    Examples:
        >>> import cnnmod, tempfile, timm
        >>> path = Path(tempfile.mkdtemp()) / "resnet18_mod.safetensors"
        >>> save(cnnmod.convert_(timm.create_model("resnet18")), path)
        >>> load_mod_blocks_(cnnmod.convert_(timm.create_model("resnet18", num_classes=10)), path)
    """
    structure, tensors = read_file(Path(path))
    blocks = mod_blocks(model)
    if [*structure.blocks] != [*blocks]:
        raise ValueError(f"{path} has the MoD blocks {[*structure.blocks]}, but the model has {[*blocks]}")
    if different := [name for name, block in blocks.items() if structure.blocks[name] != block.config]:
        raise ValueError(f"{path} has MoD blocks with other settings than the model: {', '.join(different)}")
    states = {name: block.state_dict() for name, block in blocks.items()}
    state = {f"{name}.{key}": value for name, values in states.items() for key, value in values.items()}
    if (difference := shape_difference(state, state, tensors)) is not None:
        raise ValueError(f"{path} is of another network: {difference}")
    for name, block in blocks.items():
        block.load_state_dict({key: tensors[f"{name}.{key}"] for key in states[name]})


def _plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state dict. Raise `ValueError` if safetensors cannot store an entry."""
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} in the state dict is a {type(value).__name__}; safetensors stores only tensors")
        if is_traceable_wrapper_subclass(value):
            raise ValueError(f"{name} is a {type(value).__name__}; safetensors stores only plain tensors")
        if value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"{name} is sparse or quantized; safetensors stores only dense tensors")
        if value.is_meta:
            raise ValueError(f"{name} is on the meta device; build the model on a real device, or call to_empty first")
    return state


def _check_fits(path: Path, structure: Structure, tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Raise `ValueError` for the first difference between the file and the model."""
    blocks, model_blocks = structure.blocks, configs_of(model)
    if blocks and model_blocks and structure.control != is_control(model):
        types = ("a MoD network", "a control")
        raise ValueError(f"{path} is of {types[structure.control]}, but the model is {types[not structure.control]}")
    if list(model_blocks) != list(blocks):
        raise ValueError(f"{path} has the MoD blocks {list(blocks)}, but the model has {list(model_blocks)}")
    if (model_skipped := skipped_blocks(model)) != structure.skipped:
        raise ValueError(f"{path} skips the blocks {structure.skipped}, but the model skips {model_skipped}")
    for name, config in blocks.items():
        if model_blocks[name] != config:
            raise ValueError(f"{path} was saved with {config} at {name}, but the model has {model_blocks[name]}")
    state = _plain_state(model)
    if (difference := shape_difference([*state, *tensors], state, tensors)) is not None:
        raise ValueError(f"{path} is of another network: {difference}")
    # load_state_dict would convert integers to floats and back, and would drop imaginary parts.
    for name, tensor in state.items():
        ours, theirs = tensor.dtype, tensors[name].dtype
        if _dtype_class(ours) != _dtype_class(theirs):
            raise ValueError(f"{path} is of another network: {name} is {theirs} in the file, {ours} in the model")


def _dtype_class(dtype: torch.dtype) -> tuple[bool, bool, bool]:
    return dtype.is_floating_point, dtype.is_complex, dtype == torch.bool

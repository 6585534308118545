"""Options that several subcommands have, and functions that open networks and print."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cnnmod.records.text import TextTable


console = Console()

Json = Annotated[bool, tyro.conf.arg(name="json", help="Print JSON instead of tables.")]
Network = Annotated[
    str | None,
    tyro.conf.arg(
        help="A network by name: `package.module:factory` (imports the module and calls the factory), `timm/NAME` or "
        "`torchvision/NAME`. With a checkpoint: the factory of its network."
    ),
]
Weights = Annotated[
    Path | None,
    tyro.conf.arg(help="A file with the weights (state dict) of the dense network: .pth, .pt or .safetensors."),
]
Size = Annotated[
    tuple[int, ...],
    tyro.conf.arg(
        help="Height and width of the images in pixels, or one number for both. Default: the network's own size."
    ),
]
RecipeName = Annotated[
    str | None,
    tyro.conf.arg(
        help="For a file that is in no run folder: the recipe that says how images are prepared, such as finetune."
    ),
]
Changes = Annotated[
    tuple[str, ...], tyro.conf.arg(name="set", help="Changes of the recipe that --recipe names, such as image_size=64.")
]


def height_and_width(size: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the value of `--size` as height and width, or `None` if it was not given.

    Raises:
        ValueError: If there are more than two numbers, or one is not positive.
    """
    if len(size) > 2 or min(size, default=1) < 1:
        raise ValueError(f"--size must be one or two numbers ≥ 1, not {' '.join(map(str, size))}")
    return (size[0], size[-1]) if size else None


def opened(
    name: str | None,
    network: str | None,
    weights: Path | None,
    size: tuple[int, ...],
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> "tuple[nn.Module, Tensor]":
    """Open the network that a subcommand names, with an image on the meta device.

    Args:
        name: The name of a network, or a checkpoint.
        network: The value of `--network`.
        weights: The value of `--weights`.
        size: The value of `--size`. The default is the size of a checkpoint's test images, or the network's own size.
        arguments: The arguments of the factory, for the name of a network.

    Raises:
        OSError: As `open_network`.
        ValueError: As `open_network`, or if the size is not valid.
    """
    from cnnmod.method.trace import example_for
    from cnnmod.networks.own import open_network

    shown, needed = sizes_of(name, size, network)
    model = open_network(name, network=network, weights=weights, size=needed, arguments=arguments)
    return model, example_for(model, shown)


def sizes_of(
    name: str | None, size: tuple[int, ...], network: str | None = None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Return the size of the images that a network gets, and the size at which its checkpoint has to be loaded.

    `None` is the network's own size. A checkpoint of a network of the user is loaded at the size of its test images,
    because such a network may run at one size only.
    """
    from cnnmod.networks.own import is_checkpoint

    given, trained = height_and_width(size), None
    if name is not None and is_checkpoint(name):
        from cnnmod.networks.run_file import trained_on

        images = trained_on(Path(name))
        trained = images and images.size
    is_own = network is not None and ":" in network
    return given or trained, given or (trained if is_own else None)


def show(table: "TextTable | str", values: object, as_json: bool) -> None:
    """Print a table or text, or the values as JSON. Only the main process prints."""
    from cnnmod.records.text import TextTable
    from cnnmod.report.table import rich_table
    from cnnmod.training.processes import all_processes

    if not all_processes().is_main_process:
        return
    if as_json:
        print_json(values)
    elif isinstance(table, TextTable):
        console.print(rich_table(table))
    else:
        print_text(table)


def print_text(text: str) -> None:
    """Print text unchanged. Paths are not wrapped at the width of the terminal, and brackets are not markup."""
    console.print(text, soft_wrap=True, markup=False)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=1))

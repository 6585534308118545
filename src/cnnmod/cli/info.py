"""The subcommands `demo` and `info`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from cnnmod.cli.app import Json, Network, Size, Weights, console, opened, print_json, print_text


def demo(out: Path = Path("cnnmod-demo"), as_json: Json = False) -> None:
    """Run a demo of cnnmod in less than three minutes, on images that are part of scikit-learn.

    It trains a small dense network, its MoD network and its control on scanned digits. It times ResNet50, ResNet75-MoD
    and its control at 224 pixels. It writes a folder with tables, a figure, result files and a checkpoint.

    Example: cnnmod demo --out my-demo

    Args:
        out: The output folder.
    """
    from cnnmod.demo import DIGITS, IMAGENET, run_demo
    from cnnmod.report.progress import progress_bars
    from cnnmod.report.table import comparison_table, rich_table

    with progress_bars() as progress:
        result = run_demo(out, progress)
    if as_json:
        print_json({name: dataclasses.asdict(getattr(result, name)) for name in ("digits", "imagenet")})
        return
    for sentence, comparison in ((DIGITS, result.digits), (IMAGENET, result.imagenet)):
        print_text(sentence)
        console.print(rich_table(comparison_table(comparison)))
        console.print()
    print_text(f"Written to {out.resolve()}: {', '.join(str(file.relative_to(out)) for file in result.files)}")


def info(
    name: Annotated[str | None, tyro.conf.Positional] = None,
    network: Network = None,
    weights: Weights = None,
    size: Size = (),
    as_json: Json = False,
) -> None:
    """Show a network block by block: C, k, parameters, MACs, and the paper's figures. For a dense network, show which
    blocks `convert_` replaces by MoD blocks, and why the others stay.

    Example: cnnmod info resnet75_mod

    Example: cnnmod info torchvision/mobilenet_v3_large

    Example: cnnmod info --network my_net:make --weights my_net.pth --size 64

    Args:
        name: The name of a network of cnnmod or timm, `timm/NAME`, `torchvision/NAME`, `package.module:factory`, or a
            checkpoint (.safetensors).
    """
    from cnnmod.deploy.lower import without_auxiliary_head
    from cnnmod.measure.count import count_modules
    from cnnmod.method.convert import mod_blocks
    from cnnmod.method.plan import plan
    from cnnmod.networks.paper import paper_rows
    from cnnmod.report.network import network_table
    from cnnmod.report.table import rich_table

    model, example = opened(name, network, weights, size)
    model, title = without_auxiliary_head(model), str(name or network)
    if not as_json:
        console.print(rich_table(network_table(title, model, example)))
        return
    mod = mod_blocks(model)
    sizes = count_modules(model, example)
    planned: object = None
    if not mod:
        try:
            planned = dataclasses.asdict(plan(model, example=example))
        except ValueError as error:
            planned = str(error)
    paper = paper_rows().get(title)
    print_json(
        {
            "network": title,
            **dataclasses.asdict(sizes[""]),
            "mod_blocks": {
                block_name: {"channels": block.channels, "k": block.k, **dataclasses.asdict(sizes[block_name])}
                for block_name, block in mod.items()
            },
            "plan": planned,
            "paper": paper and dataclasses.asdict(paper),
        }
    )

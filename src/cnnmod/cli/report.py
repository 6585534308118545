"""The subcommand `report`."""

from pathlib import Path
from typing import Annotated

import tyro

from cnnmod.cli.app import Json, Network, print_json, print_text


def report(
    sources: Annotated[tuple[Path, ...], tyro.conf.Positional],
    network: Network = None,
    out: Path = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write a report as one HTML page: a verdict, then accuracies, times, plan, blocks, selections and exported
    files.

    Example: cnnmod report runs/rows rows.json --out report.html

    Example: cnnmod export runs/rows/mod-seed0/best.safetensors --out net.onnx --json > export.json
    cnnmod report runs/rows rows.json export.json

    Args:
        sources: Folders of `cnnmod train --rows`, result files of `cnnmod compare --out`, folders of `cnnmod tune`, and
            outputs of `cnnmod export --json`, in any order.
        out: The HTML file to write.
    """
    from cnnmod.report.page.page import write_report
    from cnnmod.report.progress import progress_bars

    with progress_bars() as progress:
        conclusion = write_report(sources, out, network=network, progress=progress)
    if as_json:
        print_json({"report": str(out), "verdict": conclusion})
    else:
        print_text(f"{conclusion}\nWritten to {out.resolve()}")

"""What the subcommands share: the app that registers them, and printing."""

import json
from typing import Annotated

import tyro
from rich.console import Console
from tyro.extras import SubcommandApp

from cnnmod.report.table import Cells
from cnnmod.training.processes import all_processes

app = SubcommandApp()
console = Console()

Json = Annotated[bool, tyro.conf.arg(name="json", help="Print JSON instead of tables.")]


def show(table: Cells | str, values: object, as_json: bool) -> None:
    """Print a table or text, or the values as JSON. Only the main process prints."""
    if not all_processes().is_main_process:
        return
    if as_json:
        print_json(values)
    else:
        console.print(table.rich() if isinstance(table, Cells) else table)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=1))

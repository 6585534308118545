"""The app that registers the subcommands, and functions that print."""

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
    elif isinstance(table, Cells):
        console.print(table.rich())
    else:
        print_text(table)


def print_text(text: str) -> None:
    """Print text unchanged. Paths are not wrapped at the width of the terminal, and brackets are not markup."""
    console.print(text, soft_wrap=True, markup=False)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=1))

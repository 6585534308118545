"""What the subcommands share: the app they register with, and how they print."""

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


def show(people: Cells | str, values: object, as_json: bool) -> None:
    if not all_processes().is_main_process:
        return
    if as_json:
        print_json(values)
    else:
        console.print(people.rich() if isinstance(people, Cells) else people)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=1))

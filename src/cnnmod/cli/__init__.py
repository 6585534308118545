"""The command line `cnnmod`. Each subcommand prints tables or text, or JSON with `--json`."""

import re
import sys
import warnings
from pathlib import Path

from tyro.extras import SubcommandApp

from cnnmod.cli.compare import compare, plot
from cnnmod.cli.deploy import export
from cnnmod.cli.evaluate import evaluate, inspect
from cnnmod.cli.info import demo, info
from cnnmod.cli.metavars import with_metavars
from cnnmod.cli.predict import predict
from cnnmod.cli.report import report
from cnnmod.cli.train import train
from cnnmod.cli.tune import tune
from cnnmod.records.install import missing_package

# In the order of the work. A file of subcommands imports what a subcommand needs when it runs.
SUBCOMMANDS = (demo, info, tune, train, evaluate, inspect, predict, compare, plot, export, report)
for subcommand in SUBCOMMANDS:
    with_metavars(subcommand)


def run(args: list[str] | None = None) -> None:
    """Run the command line.

    An error that the user can fix is printed as one line on standard error, and the exit code is 2.
    """
    args = sys.argv[1:] if args is None else args
    # For the user's package.module:factory; appended, so that it does not shadow packages.
    sys.path.append(str(Path.cwd()))
    warnings.filterwarnings("ignore", module=r"PIL\.")  # these warnings do not name the image file
    try:
        _app(args).cli(
            prog="cnnmod",
            description="CNN Mixture-of-Depths: convert, train, export and time CNNs that select channels. "
            "`cnnmod --version` prints the version.",
            args=args,
        )
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        message = missing_package(error) if isinstance(error, ModuleNotFoundError) else str(error)
        if isinstance(error, FileNotFoundError) and error.filename is not None:
            message = f"{error.filename} does not exist"
        message = message or type(error).__name__  # timm raises errors without a message, which it has logged
        print(f"cnnmod: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print("cnnmod: not enough memory; use a smaller batch or smaller images", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _app(args: list[str]) -> SubcommandApp:
    """Return the subcommands. `cnnmod --help` shows one sentence of each, `cnnmod SUBCOMMAND --help` the whole text."""
    names = {subcommand.__name__ for subcommand in SUBCOMMANDS}
    app = SubcommandApp()
    for subcommand in SUBCOMMANDS:
        # tyro shows `help` in both places. `None` is the whole docstring.
        text = None if args and args[0] in names else _first_sentence(subcommand.__doc__ or "")
        app.command(help=text)(subcommand)
    return app


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, or torch on a CPU or a GPU, could not allocate memory. On a CPU, torch has no class for it."""
    return (
        isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "DefaultCPUAllocator" in str(error)
    )


def _first_sentence(docstring: str) -> str:
    return re.split(r"(?<=\.) ", " ".join(docstring.split()), maxsplit=1)[0]

"""The command line `cnnmod`. Each subcommand prints tables or text, or JSON with `--json`."""

import sys
import warnings
from pathlib import Path

from tyro.extras import SubcommandApp

from cnnmod.cli.compare import compare, plot
from cnnmod.cli.deploy import export
from cnnmod.cli.info import demo, info
from cnnmod.cli.metavars import with_metavars
from cnnmod.cli.predict import predict
from cnnmod.cli.report import report
from cnnmod.cli.train import evaluate, inspect, train
from cnnmod.cli.tune import tune
from cnnmod.records.install import missing_package

# In the order of the work. A file of subcommands imports what a subcommand needs when it runs.
SUBCOMMANDS = (demo, info, tune, train, evaluate, inspect, predict, compare, plot, export, report)
app = SubcommandApp()
for subcommand in SUBCOMMANDS:
    app.command(with_metavars(subcommand))


def run(args: list[str] | None = None) -> None:
    """Run the command line.

    An error that the user can fix is printed as one line on standard error, and the exit code is 2.
    """
    # For the user's package.module:factory; appended, so that it does not shadow packages.
    sys.path.append(str(Path.cwd()))
    warnings.filterwarnings("ignore", module=r"PIL\.")  # these warnings do not name the image file
    try:
        app.cli(
            prog="cnnmod",
            description="CNN Mixture-of-Depths: convert, train, export and time CNNs that select channels. "
            "`cnnmod --version` prints the version.",
            args=args,
        )
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        message = missing_package(error) if isinstance(error, ModuleNotFoundError) else str(error)
        message = message or type(error).__name__  # timm raises errors without a message, which it has logged
        print(f"cnnmod: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

"""The command line `cnnmod`. Each subcommand prints tables or text, or JSON with `--json`."""

import sys
import warnings
from pathlib import Path

import cnnmod.cli.compare
import cnnmod.cli.deploy
import cnnmod.cli.info
import cnnmod.cli.predict
import cnnmod.cli.report
import cnnmod.cli.train
from cnnmod.cli.app import app
from cnnmod.records.install import missing_package


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
            description="CNN Mixture-of-Depths: convert, train, export and time CNNs that select channels.",
            args=args,
        )
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        message = missing_package(error) if isinstance(error, ModuleNotFoundError) else str(error)
        print(f"cnnmod: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

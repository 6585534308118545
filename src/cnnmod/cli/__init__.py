"""`cnnmod`: each subcommand prints for people, or JSON with `--json`."""

import sys
import warnings
from pathlib import Path

import cnnmod.cli.deploy
import cnnmod.cli.measure
import cnnmod.cli.predict
import cnnmod.cli.train
from cnnmod.cli.app import app


def run(args: list[str] | None = None) -> None:
    """Run the command line; what the user can mend is one line on standard error and exit code 2."""
    sys.path.append(str(Path.cwd()))  # package.module:factory may be the user's own; last, so that it hides nothing
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of image files, without their names
    try:
        app.cli(
            prog="cnnmod",
            description="CNN Mixture-of-Depths: what it is worth, for which network, on this machine.",
            args=args,
        )
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        print(f"cnnmod: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

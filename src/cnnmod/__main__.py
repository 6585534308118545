"""The entry point of `cnnmod` and of `python -m cnnmod`."""

import sys
from importlib.metadata import version

from cnnmod.records.install import missing_package


def main() -> None:
    """Run the command line.

    It needs the packages of the extra `report`. `--version` works without them.
    """
    if sys.argv[1:] == ["--version"]:
        print(f"cnnmod {version('cnnmod')}")
        return
    try:
        from cnnmod.cli import run
    except ModuleNotFoundError as error:
        print(f"cnnmod: {missing_package(error)}", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()

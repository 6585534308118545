"""The entry point of `cnnmod` and of `python -m cnnmod`."""

import sys
from importlib.metadata import version


def main() -> None:
    """Run the command line.

    It needs the extra packages of `cnnmod[all]`. `--version` works without them.
    """
    if sys.argv[1:] == ["--version"]:
        print(f"cnnmod {version('cnnmod')}")
        return
    try:
        from cnnmod.cli import run
    except ModuleNotFoundError as error:
        print(f"cnnmod: the command line needs {error.name}: pip install 'cnnmod[all]'", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()

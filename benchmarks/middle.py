"""Copy the result file with the median MoD tax, out of several files of the same comparison, and print all taxes.

python benchmarks/middle.py OUT FILE FILE FILE …
"""

import shutil
import sys
from pathlib import Path

from cnnmod.measure.results import read_result


def tax(path: Path) -> float:
    """Return the MoD tax of the first MoD network under the first condition."""
    comparison = read_result(path)
    return comparison.mod_tax(comparison.rows[1], *comparison.conditions[0])


def main() -> None:
    """Select the file and copy it."""
    out, *files = map(Path, sys.argv[1:])
    files.sort(key=tax)
    print(out.name, *(f"{tax(file):.1%}" for file in files))
    shutil.copy(files[len(files) // 2], out)


if __name__ == "__main__":
    main()

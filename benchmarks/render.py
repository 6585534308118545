"""Render the tables of README.md and docs/results.md from the committed result files.

A table stands between `<!-- table: FILE … -->` and `<!-- end -->`; the files are in benchmarks/results.

    python benchmarks/render.py           # writes
    python benchmarks/render.py --check   # only says which page is out of date, exit code 1
"""

import re
import sys
from pathlib import Path

from cnnmod.measure.results import read_result
from cnnmod.method.files import write_whole
from cnnmod.report.table import comparison_cells

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
_TABLE = re.compile(r"(<!-- table: ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(page: str) -> str:
    """The page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        files = match[2].split()
        tables = [comparison_cells(read_result(ROOT / "benchmarks" / "results" / file)).markdown() for file in files]
        return match[1] + "\n\n".join(tables) + "\n" + match[3]

    return _TABLE.sub(table, page)


def main() -> None:
    """Render, or check."""
    old = {page: page.read_text(encoding="utf-8") for page in PAGES}
    stale = [page for page, text in old.items() if rendered(text) != text]
    for page in stale:
        print(f"{page.relative_to(ROOT)} is out of date")
    if "--check" in sys.argv[1:]:
        sys.exit(1 if stale else 0)
    for page in stale:
        write_whole(page, rendered(old[page]))


if __name__ == "__main__":
    main()

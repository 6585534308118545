"""TextTable: a table as plain text, HTML and markdown; Printed: results that a terminal and a notebook show as one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class TextTable:
    """A title, a header, rows of text cells, and notes.

    In plain text and HTML, columns of numbers are aligned to the right, all other columns to the left.

    Attributes:
        title: The line above the table.
        header: The names of the columns; empty for a table without a header.
        rows: The rows. Each has one cell for each column.
        notes: The lines below the table.

    Examples:
        >>> print(TextTable("Widths", ["block", "C"], [["layer1", "64"], ["layer2", "128"]]))
        Widths
        block     C
        layer1   64
        layer2  128
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        lines = [*([self.header] if self.header else []), *self.rows]
        columns = [_align(cells, right) for cells, right in zip(_columns(lines), self._numeric(), strict=True)]
        table = ["  ".join(cells).rstrip() for cells in _columns(columns)]
        return "\n".join([self.title, *table, *self.notes])

    def html(self) -> str:
        """Return an HTML table for notebooks. All text is escaped.

        Examples:
            >>> TextTable("Widths", ["block", "C"], [["<lambda>", "64"]]).html().splitlines()[-2]
            '<tr><td style="text-align: left">&lt;lambda&gt;</td><td style="text-align: right">64</td></tr>'
        """
        head = ["<thead>", self._html_row("th", self.header), "</thead>"] if self.header else []
        body = [self._html_row("td", row) for row in self.rows]
        notes = [f"<p>{escape(note)}</p>" for note in self.notes]
        title = f"<caption>{escape(self.title)}</caption>"
        return "\n".join(["<table>", title, *head, *body, "</table>", *notes])

    def markdown(self) -> str:
        """Return the table in markdown. The first column is aligned to the left, the other columns to the right.

        Examples:
            >>> TextTable("Widths", ["block", "C"], [["layer1", "64"]]).markdown().splitlines()[2:]
            ['| block | C |', '| --- | ---: |', '| layer1 | 64 |']
        """
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in [self.header, rule, *self.rows]]
        return "\n".join([f"**{self.title}**", "", *lines, *(["", *self.notes] if self.notes else [])])

    def _html_row(self, tag: str, cells: Sequence[str]) -> str:
        sides = ["right" if right else "left" for right in self._numeric()]
        elements = (
            f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for side, cell in zip(sides, cells, strict=True)
        )
        return f"<tr>{''.join(elements)}</tr>"

    def _numeric(self) -> list[bool]:
        """Return, for each column, whether all of its cells are numbers or empty."""
        if not self.rows:
            return [False] * len(self.header)
        return [all(map(_is_number, filter(None, cells))) for cells in _columns(self.rows)]


class Printed(ABC):
    """Base class of results that are printed as a table. A dataclass needs `repr=False`."""

    @abstractmethod
    def _table(self) -> TextTable: ...

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows."""
        return self._table().html()


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    return zip(*rows, strict=True)


def _align(cells: Sequence[str], right: bool) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

"""Tables of the page: cells that know the number behind their text, so that a reader can sort by it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from imbdet.figures.tables import BLANK

LINE = 40  # characters of a cell that may stand side by side


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place.

    value: the number that is sorted by, unrounded as in its record; None is missing, or text.
    below: a line in small print. share: of a bar's full length, 0 to 1. links: text and the anchor on the page.
    title: shown where the pointer rests.
    """

    text: str
    value: float | None = None
    below: str = ""
    share: float | None = None
    links: tuple[tuple[str, str], ...] = ()
    title: str = ""

    @property
    def long(self) -> bool:
        """Whether the text is to be broken into lines."""
        return any(len(line) > LINE for line in self.text.split("\n"))


@dataclass(frozen=True)
class Column:
    """Heading, the small print below it, whether it holds numbers, and the heading over it and its neighbours."""

    heading: str
    numeric: bool = True
    below: str = ""
    group: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns; the first ``named`` cells of a row say what it is about. anchors: ids of rows."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    named: int = 1
    anchors: Sequence[str] = ()

    @property
    def spans(self) -> list[tuple[str, int]]:
        """Headings over neighbouring columns, with their numbers of columns; empty where there are none."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(name for name, _ in spans) else []

    def filled(self) -> "Table":
        """The same without columns of numbers that hold no value in any row."""
        kept = [
            place
            for place, column in enumerate(self.columns)
            if not column.numeric or any(row[place].value is not None for row in self.rows)
        ]
        columns, rows = [self.columns[place] for place in kept], [[row[place] for place in kept] for row in self.rows]
        return replace(self, columns=columns, rows=rows)


def number(values: Sequence[float | None], form: str = ",.0f", scale: float = 1.0) -> Cell:
    """The mean of what was measured, one value a seed, and the single values below it where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return Cell(BLANK)
    mean = fmean(known)
    words = [format(scale * value, form).replace("-", "−") for value in (mean, *known)]
    return Cell(words[0], mean, " · ".join(words[1:]) if len(known) > 1 else "")


def percent(values: Sequence[float | None]) -> Cell:
    """The mean of shares in percent, with a bar."""
    cell = number(values, ".1f", 100)
    return replace(cell, share=cell.value)


def as_number(text: str) -> float | None:
    """The number that a text is, if it is one: it may be a bound, and an interval may follow it in brackets."""
    found = re.fullmatch(r"[<≤]? ?([+−-]?[\d,]*\.?\d+)(?: \(.*\))?", text)
    return float(found[1].replace(",", "").replace("−", "-")) if found else None

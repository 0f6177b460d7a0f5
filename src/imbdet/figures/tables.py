"""Tables for readers: Markdown and LaTeX (booktabs) from columns of text."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

BLANK = "–"
_LATEX = {
    "\\": r"\textbackslash{}",
    "→": r"$\to$",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "γ": r"$\gamma$",
    "β": r"$\beta$",
    "α": r"$\alpha$",
    "≤": r"$\leq$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # after a line's end it would begin an option
}
# What would be markup in Markdown, HTML or a formula; a bare < or & is none.
_MARKDOWN = re.compile(r"[\\|*_`$~\[]|<(?=[A-Za-z/!?])|&(?=#?\w+;)")
_LATEX |= {mark: f"\\{mark}" for mark in "&%$#_{}"}


@dataclass(frozen=True)
class Column:
    """A column: the group that it belongs to (its source and data set; may be empty), its heading and its cells."""

    group: str
    heading: str
    cells: Sequence[str]


def text(values: Iterable[object]) -> list[str]:
    """Return cells of names; a missing one is a dash."""
    return [BLANK if isinstance(value, float) and math.isnan(value) else str(value) for value in values]


def numbers(values: Iterable[float], form: str) -> list[str]:
    """Return cells of numbers in a format such as ``.1f``, with a true minus; a missing one is a dash."""
    return [BLANK if math.isnan(value) else format(value, form).replace("-", "−") for value in values]


def p_values(values: Iterable[float], bounds: Iterable[bool]) -> list[str]:
    """Return cells of p values; those of ``bounds`` may be smaller, as no smaller one can come of the resamples."""
    cells = zip(numbers(values, ".3f"), bounds, strict=True)
    return ["< 0.001" if cell == "0.000" else f"≤ {cell}" if bound and cell != BLANK else cell for cell, bound in cells]


def intervals(low: Iterable[float], high: Iterable[float], form: str) -> list[str]:
    """Return cells of intervals; one without ends is a dash."""
    ends = zip(numbers(low, form), numbers(high, form), strict=True)
    return [BLANK if a == BLANK else f"{a} to {b}" for a, b in ends]


def estimates(values: Iterable[float], low: Iterable[float], high: Iterable[float], form: str) -> list[str]:
    """Return cells of numbers, each with its interval in brackets; a missing one is a dash."""
    both = zip(numbers(values, form), intervals(low, high, form), strict=True)
    return [BLANK if value == BLANK else f"{value} ({interval})" for value, interval in both]


def markdown(columns: Sequence[Column], caption: str) -> str:
    """Return a GitHub table with the caption below; where there are groups, they are its head and headings a row."""
    rows = [[_plain(cell) for cell in row] for row in zip(*(column.cells for column in columns), strict=True)]
    head = [_plain(column.heading) for column in columns]
    if any(column.group for column in columns):
        rows.insert(0, [f"**{heading}**" for heading in head])
        head = [_plain(name) if place == 0 else "" for name, width in _groups(columns) for place in range(width)]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, "", _plain(caption), ""])


def _plain(words: str) -> str:
    """Words of which Markdown shows every character."""
    return _MARKDOWN.sub(r"\\\g<0>", _line(words))


def _line(words: str) -> str:
    """Words in one line, as a cell must be."""
    return " ".join(words.splitlines())


def _groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Neighbouring columns of one group: its name and how many they are."""
    return [(name, len(list(members))) for name, members in groupby(column.group for column in columns)]


def latex(columns: Sequence[Column], caption: str, label: str) -> str:
    """Return a ``table`` environment for the booktabs package, groups as headings over their columns."""
    spans, rules, start = [], [], 1
    for name, width in _groups(columns):
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{_escape(name)}}}")
        rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if name else []
        start += width
    rows = zip(*(column.cells for column in columns), strict=True)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(caption)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{'l' * len(columns)}}}",
        r"\toprule",
        *([" & ".join(spans) + r" \\", " ".join(rules)] if rules else []),
        " & ".join(_escape(column.heading) for column in columns) + r" \\",
        r"\midrule",
        *(" & ".join(map(_escape, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _escape(words: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _line(words))

"""Markdown and LaTeX tables show every cell once, whatever characters it holds."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imbdet.figures.captions import rst
from imbdet.figures.tables import Column, latex, markdown, numbers, text

words = st.text("aB1 |*_&%$#{}\\→–γβα,.", min_size=1).map(str.strip).filter(bool)
tables = st.integers(1, 4).flatmap(lambda rows: st.lists(st.lists(words, min_size=rows, max_size=rows), min_size=1))


def unescape(escaped, marks):
    return re.sub(rf"\\([{re.escape(marks)}])", r"\1", escaped)


@given(tables, words)
def test_markdown_has_every_cell(cells, group):
    columns = [Column(group, "heading", column) for column in cells]
    lines = markdown(columns, "caption").splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line]
    shown = [[unescape(cell.strip(), "|*_$\\") for cell in row] for row in rows[3:-1]]
    assert shown == [list(row) for row in zip(*cells, strict=True)]


@given(tables, words)
def test_latex_has_every_cell_and_no_bare_special_character(cells, caption):
    columns = [Column("", "heading", column) for column in cells]
    made = latex(columns, caption, "label")
    body = made.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == len(cells[0])
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) == len(cells) - 1
        assert not re.search(r"(?<!\\)[%#_]", line)
        assert line.endswith(r" \\")


def test_latex_groups_span_their_columns():
    columns = [
        Column("", "x", ["1"]),
        Column("left", "y", ["2"]),
        Column("left", "z", ["3"]),
        Column("right", "w", ["4"]),
    ]
    made = latex(columns, "caption", "label")
    assert r"\multicolumn{1}{c}{} & \multicolumn{2}{c}{left} & \multicolumn{1}{c}{right} \\" in made
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in made


def test_missing_values_are_dashes():
    nan = float("nan")
    assert numbers([0.25, nan, 31.04], ".1f") == ["0.2", "–", "31.0"]
    assert text(["CE", nan]) == ["CE", "–"]


@given(st.text("ab *_`|\\", max_size=20))
def test_rst_escapes_are_undone_by_reading(plain):
    assert re.sub(r"\\(.)", r"\1", rst(plain)) == plain + "\n"


@pytest.mark.parametrize(
    ("cell", "shown", "made"),
    [
        ("<b>bold</b>", r"\<b>bold\</b>", "<b>bold</b>"),
        ("`code`", r"\`code\`", "`code`"),
        ("$x$ and \\*", r"\$x\$ and \\\*", r"\$x\$ and \textbackslash{}*"),
        ("[a](b)", r"\[a](b)", "{[}a](b)"),
        ("two\nlines", "two lines", "two lines"),
        ("~5^2", r"\~5^2", r"\textasciitilde{}5\textasciicircum{}2"),
        ("< 0.001", "< 0.001", "< 0.001"),
    ],
)
def test_marks_of_either_language_are_shown_as_they_are(cell, shown, made):
    columns = [Column("", "heading", [cell])]
    assert markdown(columns, "caption").splitlines()[2] == f"| {shown} |"
    assert f"\n{made} \\\\\n" in latex(columns, "caption", "label")


def test_headings_and_groups_of_a_table_are_text_too():
    made = markdown([Column("a|b", "c|d_", ["e"])], "caption")
    assert made.splitlines()[:3] == [r"| a\|b |", "| --- |", r"| **c\|d\_** |"]

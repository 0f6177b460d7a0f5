"""docs/misstatements.md: all 27 items, each with tests and figures that exist."""

import ast
import re

from pages import ROOT, read, tables

from imbdet.figures import FIGURES

ITEMS = [row for table in tables(read("misstatements.md")) for row in table]


def functions(file):
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_all_27_are_there_in_order():
    assert [row[""] for row in ITEMS] == [f"E{number}" for number in range(1, 28)]
    assert all(row["often said"] and row["right"] for row in ITEMS)


def test_every_item_names_tests_of_its_own_and_they_exist():
    for row in ITEMS:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row["shown by"])
        assert named, f"{row['']} names no test"
        for file, function in named:
            assert function in functions(ROOT / "tests" / "docs" / file), f"{row['']}: no {function} in {file}"
            assert function.startswith(f"test_e{int(row[''][1:]):02d}_")


def test_figures_that_are_named_exist():
    named = [name for row in ITEMS for name in re.findall(r"figure `(\w+)`", row["shown by"])]
    assert set(named) <= set(FIGURES)
    assert len(named) >= 8

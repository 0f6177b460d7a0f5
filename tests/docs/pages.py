"""Reading the project's Markdown pages, and the script that makes some of them."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def load_build():
    """docs/build.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name):
    return (DOCS / name).read_text(encoding="utf-8")


def tables(text):
    """All tables of a page, each a list of rows, each row a mapping of the header's cells to the row's."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            header, _, *body = rows
            found.append([dict(zip(header, row, strict=True)) for row in body])
            rows = []
    return found

"""The page of the methods is what their docstrings say, and every docstring has the whole block."""

import importlib
from pathlib import Path

import pytest

from imbdet.config import method_names
from imbdet.errors import UserError
from imbdet.methods import Method

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_made_from_the_docstrings(build):
    committed = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert committed == build.methods_page(ROOT), "run `python docs/build.py` and commit docs/methods.md"


def test_the_readme_lists_the_committed_experiments(build):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == build.readme(text, ROOT), "run `python docs/build.py` and commit README.md"


@pytest.mark.parametrize("name", method_names())
def test_every_method_says_all_that_a_reader_wants(build, name):
    entry = build.block(ROOT / "src/imbdet/methods" / f"{name}.py")
    assert all(entry[key].strip() for key in build.BLOCK)
    module = importlib.import_module(f"imbdet.methods.{name}")
    (cls,) = (c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Method) and c is not Method)
    assert set(entry["stages"].split(", ")) == cls.stages


def test_a_part_that_is_missing_is_named(build, tmp_path):
    file = tmp_path / "new.py"
    file.write_text('"""A method.\n\nPaper: one.\nEquations: none.\n"""\n')
    with pytest.raises(UserError, match="no Official code, Deviations, Stages, Recipe"):
        build.block(file)

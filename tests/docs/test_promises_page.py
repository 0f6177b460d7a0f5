"""The page of promises is what the tests have recorded, the record is of tests that exist, and it is large enough."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {"soak", "gpu"}  # markers of tests that `make promises` need not have run
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted((ROOT / "tests").rglob("*.py"))}


@pytest.fixture(scope="module")
def records():
    return json.loads((ROOT / "results" / "promises.json").read_text(encoding="utf-8"))


def markers(file):
    """Names of the constants of a test's module that are a promise, such as ``HIDDEN = pytest.mark.promise(...)``."""
    constants = (node for node in TREES[file].body if isinstance(node, ast.Assign))
    return {node.targets[0].id for node in constants if ast.unparse(node.value).startswith("pytest.mark.promise(")}


def functions(file):
    """Test functions of a module, by name, with their decorators as text."""
    nodes = (node for node in ast.walk(TREES[file]) if isinstance(node, ast.FunctionDef))
    return {n.name: list(map(ast.unparse, n.decorator_list)) for n in nodes if n.name.startswith("test_")}


def promising():
    """Every test with a promise that an ordinary run takes in, as file::function."""
    known = set().union(*(markers(file) for file in TREES))
    found = set()
    for file in TREES:
        for name, decorators in functions(file).items():
            promises = any(d in known or d.startswith("pytest.mark.promise(") for d in decorators)
            if promises and not any(d.startswith(f"pytest.mark.{mark}") for d in decorators for mark in ELSEWHERE):
                found.add(f"{file.relative_to(ROOT).as_posix()}::{name}")
    return found


def test_the_page_is_made_from_the_record(build):
    committed = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    assert committed == build.promises_page(ROOT), "run `python docs/build.py` and commit docs/promises.md"


def test_the_record_is_of_all_tests_with_a_promise_and_no_others(records):
    recorded = {test for record in records for test in record["tests"]}
    assert recorded - promising() == set(), "these tests are gone: make promises"
    assert promising() - recorded == set(), "these tests are not recorded: make promises"


@pytest.mark.parametrize(("kind", "least"), [("bad input", 60), ("fault", 30), ("kill", 20)])
def test_enough_is_tried(records, kind, least):
    assert sum(record["cases"] for record in records if record["kind"] == kind) >= least


def test_enough_messages_are_asserted(records):
    assert len({message for record in records for message in record["messages"]}) >= 25

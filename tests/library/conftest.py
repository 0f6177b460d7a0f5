"""What the tests of the benchmarks share: the script that makes their page, and the records that it makes it of."""

import json

import pytest
from scripts import load


@pytest.fixture(scope="session")
def page():
    return load("page")


@pytest.fixture(scope="session")
def committed(page):
    return [json.loads(path.read_text(encoding="utf-8")) for path in page.RECORDS]

"""``pytest tests/oracles --vectors DIR``: the reference vectors, or other files of the same structure."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    folder = Path(__file__).parent / "oracles" / "vectors"
    parser.addoption("--vectors", default=str(folder), help="folder of the reference vectors")


@pytest.fixture(scope="session")
def vectors(request: pytest.FixtureRequest) -> Path:
    """Folder of the vectors; a file that is missing there fails its test."""
    return Path(request.config.getoption("--vectors")).resolve()

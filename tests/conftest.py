"""Options of the suite: other reference vectors, a record of the promises kept, and no skip that is not listed."""

import signal
from pathlib import Path

import pytest
from promises import Promises
from skips import MAY_SKIP, OnlyListedSkips

from imbdet.files import write_json


def pytest_addoption(parser: pytest.Parser) -> None:
    folder = Path(__file__).parent / "oracles" / "vectors"
    parser.addoption("--vectors", default=str(folder), help="folder of the reference vectors")
    parser.addoption("--promises", type=Path, help="write the promises that the tests have kept to this file")
    help_text = "fail if a test is skipped that tests/skips.py does not list"
    parser.addoption("--only-listed-skips", action="store_true", help=help_text)


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job ignores Ctrl-C, and so would the runs that tests start and stop.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(Promises(), "promises")
    if config.getoption("--only-listed-skips") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(OnlyListedSkips(MAY_SKIP), "only listed skips")


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--promises")
    if path and not hasattr(session.config, "workerinput"):
        write_json(path, session.config.pluginmanager.get_plugin("promises").records())


@pytest.fixture(scope="session")
def vectors(request: pytest.FixtureRequest) -> Path:
    """Folder of the vectors; a file that is missing there fails its test."""
    return Path(request.config.getoption("--vectors")).resolve()

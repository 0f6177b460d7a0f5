"""Tests that keep a promise say which: ``@pytest.mark.promise(TEXT, kind)``, kind one of :data:`KINDS`.

``pytest --promises FILE`` writes what the run has shown, by promise: the tests, how many cases passed, how many
different messages were asserted. docs/promises.md is made from that file.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from imbdet.errors import UserError

KINDS = ("bad input", "fault", "kill", "law")
asserted: list[str] = []  # patterns of messages that the running test has asserted


@contextmanager
def refused(pattern: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Expect a :class:`UserError` whose message matches ``pattern``, which is counted among the messages asserted.

    The pattern is to be the same for every case and run; what differs is asserted of the error that this gives.
    """
    with pytest.raises(UserError, match=pattern) as error:
        yield error
    asserted.append(pattern)


def said(pattern: str, text: str) -> None:
    """Assert that a text, such as a command's output, matches ``pattern``, which is counted in the same way."""
    with pytest.raises(UserError, match=pattern):
        raise UserError(text)
    asserted.append(pattern)


class Promises:
    """Collects the reports of tests with the marker (pytest plugin)."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], list[tuple[str, int, list[str]]]] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        """Attach to the report of a passed test what it promises; a property ``count`` stands for that many cases."""
        report = (yield).get_result()
        marker = item.get_closest_marker("promise")
        if call.when == "setup":
            asserted.clear()
        if call.when == "call" and report.passed and marker:
            text, kind = marker.args
            assert kind in KINDS, f"{item.nodeid}: kind {kind!r}, expected one of {KINDS}"
            count = dict(report.user_properties).get("count", 1)
            report.user_properties.append(("promise", [text, kind, count, list(asserted)]))

    def pytest_runtest_logreport(self, report):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "promise":
                text, kind, count, messages = value
                self.kept.setdefault((kind, text), []).append((report.nodeid.split("[")[0], count, messages))

    def records(self) -> list[dict]:
        """One record a promise, by kind and text."""
        return [
            {
                "promise": text,
                "kind": kind,
                "tests": sorted({test for test, _, _ in cases}),
                "cases": sum(count for _, count, _ in cases),
                "messages": sorted({message for _, _, messages in cases for message in messages}),
            }
            for (kind, text), cases in sorted(self.kept.items())
        ]

"""Which tests may be skipped, and where: with ``--only-listed-skips``, as in CI, any other skip fails the run.

A skip is no pass: a run in which a browser or a package is missing looks as green as one in which all is tested.
"""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"  # real images, beside the project
OF_REAL_IMAGES = (
    "tests/data/test_annotations.py::test_real_annotations_agree_with_pycocotools",
    "tests/data/test_changed_source.py::test_an_archive_that_was_downloaded_and_replaced_is_read_again",
    "tests/data/test_data_sources.py::test_coco_2017_from_a_faulty_mirror",
    "tests/data/test_data_sources.py::test_coco_2017_from_a_mirror",
    "tests/data/test_data_sources.py::test_coco_2017_without_images_of_an_archive",
    "tests/data/test_data_sources.py::test_real_images_of_a_coco_format_archive",
    "tests/data/test_lvis_source.py::test_an_excerpt_of_the_real_annotations",
    "tests/data/test_subset.py::test_real_images_one_by_one",
    "tests/data/test_validation_command.py::test_official_annotations_and_images_go_through",
    "tests/data/test_voc_source.py::test_the_archive_of_blood_cells_from_a_mirror",
    "tests/data/test_voc_source.py::test_the_mirror_of_real_photographs",
    "tests/evaluation/test_lvis_ap.py",
)
# Start of a test's id, and whether the test may be skipped here.
MAY_SKIP = {
    "tests/slurm/test_one_node.py": "SLURM_TEST" not in os.environ,  # `make test-slurm` starts a Slurm, as root
    **dict.fromkeys(OF_REAL_IMAGES, not SHARED.is_dir()),
}


class OnlyListedSkips:
    """Fails a run in which a test is skipped, or expected to fail, that is not listed (pytest plugin)."""

    def __init__(self, may_skip: dict[str, bool]) -> None:
        self.listed = tuple(start for start, here in may_skip.items() if here)
        self.others: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if (report.skipped or hasattr(report, "wasxfail")) and not report.nodeid.startswith(self.listed):
            reason = getattr(report, "wasxfail", None) or report.longrepr[2]
            self.others.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.others and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.others:
            terminalreporter.section("error: skipped, and not listed in tests/skips.py", red=True)
            for line in self.others:
                terminalreporter.line(line)

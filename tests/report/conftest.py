"""The page of the made-up study, built once; tests that change a record work in a folder of their own."""

import contextlib

import made_up_study
import pytest

from imbdet import figures, report
from imbdet.layout import Layout

DRAWN = ("focal_loss_pt", "results")  # a picture and a table that need little


@pytest.fixture(scope="session")
def study():
    return made_up_study.study()


@pytest.fixture(scope="session")
def built(study, tmp_path_factory):
    """A folder with records, two figures and the page. Not to be changed by a test."""
    root = tmp_path_factory.mktemp("built")
    with contextlib.chdir(root):
        made_up_study.write(study)
        for name in DRAWN:
            figures.run(study, Layout.of(study), name)
        report.run(study, Layout.of(study))
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path

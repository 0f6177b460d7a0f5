"""The fabricated study, drawn once; tests that change something work in a copy."""

import contextlib
import shutil
from pathlib import Path

import fabricate
import pytest

from imbdet import figures
from imbdet.config import Study
from imbdet.layout import Layout


@pytest.fixture(scope="session")
def study() -> Study:
    return fabricate.study()


@pytest.fixture(scope="session")
def layout(study: Study) -> Layout:
    return Layout.of(study)


@pytest.fixture(scope="session")
def drawn(study: Study, layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the records and every figure of the study. Not to be changed by a test."""
    root = tmp_path_factory.mktemp("drawn")
    with contextlib.chdir(root):
        fabricate.write(study, layout)
        for name in figures.names(study):
            figures.run(study, layout, name)
    return root


@pytest.fixture
def project(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of records and figures, which is the current folder."""
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path

"""Every committed figure is what the committed records and today's code give."""

from pathlib import Path

import pytest

from imbdet import figures
from imbdet.layout import Layout
from imbdet.study_file import load_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted(
    folder.name for folder in ROOT.glob("paper_figures/*") if (ROOT / "config" / f"{folder.name}.yaml").is_file()
)


def test_the_demo_is_committed():
    assert "demo" in STUDIES


@pytest.mark.parametrize("name", STUDIES)
def test_figures_are_redrawn_equal(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study(Path("config") / f"{name}.yaml")
    assert figures.check(study, Layout.of(study)) == []

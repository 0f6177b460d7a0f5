"""A generated data set of a few images, prepared once, and studies that train on it in seconds."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from studies import merged

from imbdet.config import Study
from imbdet.data.prepare import prepare
from imbdet.layout import Layout
from imbdet.study_file import parse_study

TINY = Path(__file__).resolve().parents[1] / "pipeline" / "tiny.yaml"
FAST = {"train": {"steps": 6, "batch_size": 4, "log_every": 2, "checkpoint_every": 2}}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Other tests may run beside these, and networks this small gain nothing from a second thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``imbdet data`` has run; tests copy it."""
    folder = tmp_path_factory.mktemp("prepared")
    study = tiny_study()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare(study, Layout.of(study))
    return folder


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared folder as the current one, with the study's file in it."""
    folder = tmp_path / "workspace"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def make_study() -> Callable[..., Study]:
    """``make_study(train={...}, experiments={...})``: the tiny study with some of its values changed."""
    return tiny_study


def tiny_study(**changes: Any) -> Study:
    return parse_study(_raw(changes), name="tiny", where="tiny.yaml")


@pytest.fixture
def config(workspace: Path) -> Callable[..., str]:
    """Write the tiny study, changed, into the workspace and return its path, for the command line."""

    def write(**changes: Any) -> str:
        (workspace / "config").mkdir(exist_ok=True)
        (workspace / "config" / "tiny.yaml").write_text(yaml.safe_dump(_raw(changes), sort_keys=False))
        return "config/tiny.yaml"

    return write


def _raw(changes: dict[str, Any]) -> dict[str, Any]:
    return merged(merged(yaml.safe_load(TINY.read_text()), FAST), changes)

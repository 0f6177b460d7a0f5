"""Setting up the environment: once, and with a clear word where there is no Python for it."""

import os
import shutil
from pathlib import Path

import pytest
from project_copy import ROOT, Project


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    """The files of the set-up, on a machine whose only Python is too old."""
    for name in ("Makefile", "requirements.lock", "requirements-uv.lock", "pyproject.toml", "workflow/environment.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "dirname", "env"):
        found = shutil.which(tool)
        assert found
        (tmp_path / "bin" / tool).symlink_to(found)
    (tmp_path / "bin" / "python3").write_text("#!/usr/bin/env bash\nexit 1\n")
    (tmp_path / "bin" / "python3").chmod(0o755)
    return Project(tmp_path)


def test_a_machine_without_python_is_told_what_to_install(bare: Project) -> None:
    refused = bare.run("workflow/environment.sh", check=False, PATH=str(bare.folder / "bin"))
    assert refused.returncode == 1
    assert refused.stdout.startswith("error: Python 3.11 or newer is needed")
    assert not (bare.folder / ".venv").exists()


def test_nothing_is_set_up_twice(bare: Project) -> None:
    stamp = bare.folder / ".venv" / ".complete"
    assert bare.run("make", "--question", "env", check=False).returncode == 1
    stamp.parent.mkdir()
    stamp.touch()
    assert bare.run("make", "--question", "env", check=False).returncode == 0
    lock = bare.folder / "requirements.lock"
    os.utime(lock, ns=(0, stamp.stat().st_mtime_ns + 1))
    assert bare.run("make", "--question", "env", check=False).returncode == 1

"""What a record says of the code that made it."""

import subprocess

import pytest

from imbdet.training import record


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(workspace):
    """The workspace as a repository with one commit of code, settings and a result."""
    for path in ("src/module.py", "config/tiny.yaml", "requirements.lock", "results/tiny/record.json"):
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_text("before\n")
    git("init")
    git("add", "--force", "src", "config", "requirements.lock", "results/tiny/record.json")
    git("commit", "-m", "one")
    return workspace


@pytest.mark.parametrize(
    ("path", "dirty"),
    [
        ("src/module.py", True),
        ("config/tiny.yaml", True),
        ("requirements.lock", True),
        ("results/tiny/record.json", False),
        ("notes.txt", False),
    ],
)
def test_dirty_is_what_the_run_was_made_from(repository, make_study, path, dirty):
    """Not what it writes: a second run changes the records of the first before its own trainings begin."""
    study = make_study()
    name = next(iter(study.experiments))
    assert record.code(study, name)["dirty"] is False
    (repository / path).write_text("after\n")
    found = record.code(study, name)
    assert found["dirty"] is dirty
    assert len(found["commit"]) == 40


def test_outside_a_repository_nothing_is_said(workspace, make_study, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    study = make_study()
    found = record.code(study, next(iter(study.experiments)))
    assert found["commit"] is None
    assert found["dirty"] is None

"""A copy of the project in which the tiny study is the demo, run once; each test works in a copy of that."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from project_copy import Project, copy_of_project
from studies import merged, with_two_stages

TINY = Path(__file__).with_name("tiny.yaml")
SEEDS = {"seeds": [1, 2], "intervals": {"resamples": 40, "over": "seeds_and_images", "baselines": ["ce"]}}


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Project], None]) -> Project:
    """A folder made once for all processes of the suite, of which the first to come makes it for the others."""
    root = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder, made = root / name, root / f"{name}.made"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(copy_of_project(folder))
            made.touch()
    return Project(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny study, with two detectors and two seeds, as the demo: run by bare ``snakemake``, recorded, committed.

    Not to be changed by a test.
    """
    return once(tmp_path_factory, "finished", make_finished)


def make_finished(project: Project) -> None:
    study = merged(with_two_stages(yaml.safe_load(TINY.read_text())), {"report": {"funnel": ["two-stage"]}, **SEEDS})
    (project.folder / "config" / "demo.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    # One thread a job: two in a job are slower than one each in two, and far slower on a busy machine.
    with (project.folder / "profiles" / "default" / "profile.yaml").open("a") as profile:
        profile.write("max-threads: 1\n")
    project.git("init", "--quiet")
    # Each command's log then lists the modules that it imported.
    project.run("snakemake", PYTHONPROFILEIMPORTTIME="1")
    project.make("record")
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", "The tiny study")


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished study, time stamps included."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def clone(finished: Project, tmp_path: Path) -> Project:
    """A fresh clone of the finished study, with a remote that holds what is in DVC's cache."""
    remote = str(tmp_path / "remote")
    source = finished.copy(tmp_path / "source")
    for place in (source, Project(tmp_path / "clone")):
        if not place.folder.exists():
            source.run("git", "clone", "--quiet", ".", str(place.folder))
        place.run("dvc", "remote", "add", "--local", "--default", "copy", remote)
    source.run("dvc", "push")
    return Project(tmp_path / "clone")


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny study as the demo, its data made and nothing trained; checkpoints come often.

    Not to be changed by a test.
    """
    return once(tmp_path_factory, "untrained", make_untrained)


def make_untrained(project: Project) -> None:
    study = merged(yaml.safe_load(TINY.read_text()), {"train": {"steps": 30, "checkpoint_every": 3, "batch_size": 4}})
    (project.folder / "config" / "demo.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    project.git("init", "--quiet")
    project.run("python", "-m", "imbdet.pipeline", "config/demo.yaml")
    project.stages("data")


@pytest.fixture
def trainings(untrained: Project, tmp_path: Path) -> Project:
    """A copy of the study of which nothing is trained, time stamps included."""
    return untrained.copy(tmp_path / "project")

"""A copy of the project in which the tiny study is the demo, run once; each test works in a copy of that."""

import shutil
from pathlib import Path

import pytest
import yaml
from project_copy import Project, copy_of_project
from studies import merged, with_two_stages

TINY = Path(__file__).with_name("tiny.yaml")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny study, with two detectors, as the demo: run by bare ``snakemake``, recorded, committed.

    Not to be changed by a test.
    """
    project = copy_of_project(tmp_path_factory.mktemp("finished"))
    study = merged(with_two_stages(yaml.safe_load(TINY.read_text())), {"report": {"funnel": ["two-stage"]}})
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
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished study, time stamps included."""
    shutil.copytree(finished.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


@pytest.fixture
def clone(finished: Project, tmp_path: Path) -> Project:
    """A fresh clone of the finished study, with a remote that holds what is in DVC's cache."""
    remote = str(tmp_path / "remote")
    source = Project(tmp_path / "source")
    shutil.copytree(finished.folder, source.folder, symlinks=True)
    for place in (source, Project(tmp_path / "clone")):
        if not place.folder.exists():
            source.run("git", "clone", "--quiet", ".", str(place.folder))
        place.run("dvc", "remote", "add", "--local", "--default", "copy", remote)
    source.run("dvc", "push")
    return Project(tmp_path / "clone")

"""A copy of the project in which the tiny study is the demo, run once; each test works in a copy of that."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).with_name("tiny.yaml")
GENERATED = ("results/", "paper_figures/", "pipelines/", "dvc.yaml", "dvc.lock")


@dataclass(frozen=True)
class Job:
    """One job that Snakemake would run."""

    rule: str
    experiment: str
    inputs: frozenset[str]
    outputs: frozenset[str]

    @property
    def step(self) -> tuple[str, str]:
        return self.rule, self.experiment


@dataclass(frozen=True)
class Project:
    """A folder with the project in it, and commands run there with its own code."""

    folder: Path

    def run(self, *command: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command; stdout and stderr come together in ``stdout``."""
        environment = os.environ | {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"} | variables
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}"
        return done

    def make(self, *targets: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run make as if the environment were set up, which is the one that the tests run in."""
        return self.run("make", "--old-file=.venv/.complete", *targets, check=check)

    def git(self, *arguments: str) -> None:
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments)

    def jobs(self, *arguments: str) -> list[Job]:
        """Return what Snakemake would run now."""
        listing = self.run("snakemake", "--dry-run", *arguments).stdout
        blocks = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", listing, re.MULTILINE)
        return [_job(rule, text) for rule, text in blocks if rule != "all"]

    def stages(self, *arguments: str) -> list[str]:
        """Run ``dvc repro`` and return the stages whose command ran."""
        return re.findall(r"^Running stage '(.*)':$", self.run("dvc", "repro", *arguments).stdout, re.MULTILINE)

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.folder / path
        assert file.read_text().count(old) == 1, f"{path} has to hold {old!r} once"
        file.write_text(file.read_text().replace(old, new))


def _job(rule: str, text: str) -> Job:
    fields = dict(line.strip().split(": ", 1) for line in text.splitlines() if ": " in line)
    files = {key: frozenset(fields[key].split(", ")) if key in fields else frozenset() for key in ("input", "output")}
    return Job(rule, fields.get("wildcards", "").removeprefix("experiment="), files["input"], files["output"])


def copy_of_project(folder: Path) -> Project:
    """Copy the files that Git has or would take, without what a run of the demo generated."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(GENERATED):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return Project(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny study as the demo: run by bare ``snakemake``, recorded, committed. Not to be changed by a test."""
    project = copy_of_project(tmp_path_factory.mktemp("finished"))
    shutil.copy(TINY, project.folder / "config" / "demo.yaml")
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


@pytest.fixture(scope="session")
def study() -> dict[str, object]:
    """The tiny study's file."""
    content = yaml.safe_load(TINY.read_text())
    assert isinstance(content, dict)
    return content


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    return monkeypatch.chdir

"""A copy of the project in which commands run with the code of that copy."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = ("results", "paper_figures", "pipelines", "dvc.yaml", "dvc.lock")


@dataclass(frozen=True)
class Job:
    """One job that Snakemake would run; ``name`` is its experiment or detector, if it has one."""

    rule: str
    name: str
    inputs: frozenset[str]
    outputs: frozenset[str]
    log: str

    @property
    def step(self) -> tuple[str, str]:
        return self.rule, self.name


@dataclass(frozen=True)
class Project:
    """A folder with the project in it, and commands run there with its own code."""

    folder: Path

    def copy(self, folder: Path) -> "Project":
        """Copy all of it, time stamps included."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def run(self, *command: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command; stdout and stderr come together in ``stdout``."""
        process = self.start(*command, **variables)
        output, _ = process.communicate()
        done = subprocess.CompletedProcess(command, process.returncode, output)
        assert not check or done.returncode == 0, f"{' '.join(command)} failed:\n{output}"
        return done

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command, with what it starts itself as one process group."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"} | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def processes(self) -> dict[int, list[str]]:
        """Arguments of every living process whose current folder is this project, by pid."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile, or is another user's
                if (process / "cwd").readlink() == self.folder:
                    found[int(process.name)] = (process / "cmdline").read_text().split("\0")
        return found

    def trainers(self) -> list[int]:
        """Pids of the trainings under way."""
        return [pid for pid, arguments in self.processes().items() if arguments[1:4] == ["-m", "imbdet", "train"]]

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

    def append(self, path: str, text: str) -> None:
        with (self.folder / path).open("a") as file:
            file.write(text)


def wait_until(condition: Callable[[], object], seconds: float) -> float:
    """Poll until something holds and return how long it took; fail after so many seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"still not after {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began


def _job(rule: str, text: str) -> Job:
    fields = dict(line.strip().split(": ", 1) for line in text.splitlines() if ": " in line)
    files = {key: frozenset(fields[key].split(", ")) if key in fields else frozenset() for key in ("input", "output")}
    wildcards = dict(part.split("=") for part in fields["wildcards"].split(", ")) if "wildcards" in fields else {}
    name = wildcards.get("experiment", wildcards.get("detector", ""))
    return Job(rule, name, files["input"], files["output"], fields.get("log", ""))


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
        if (ROOT / name).is_file() and name.split("/")[0] not in GENERATED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return Project(folder)

"""``python -m imbdet.mend config/STUDY.yaml``: after kill -9 of dvc, put right the files that it was writing.

DVC writes its own files in place, so that a kill can leave a part of one. ``.dvc/tmp/rwlock`` it then refuses to read.
``dvc.lock`` it refuses as well, or it takes the stages that are cut off for never run, and would train them again.
"""

import argparse
import fcntl
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from imbdet.errors import UserError
from imbdet.files import write_text
from imbdet.pipeline import DEFAULT_STUDY, Pipeline
from imbdet.runs import claim

ROOT = ("Snakefile", ".dvc/config")  # of a project has these
TEMPORARY = Path(".dvc/tmp")
LAST_LINE = re.compile(r"      size: \d+\n\Z")  # of a file in dvc.lock


def mend(path: Path) -> list[str]:
    """Remove the lock that a killed DVC has left, and tell DVC of what is finished and missing in its lock file.

    What is finished Snakemake knows, whose own files a kill leaves whole. Returns the stages that DVC is told of.
    Raises :class:`UserError` outside a project's root, and while snakemake or dvc is running.
    """
    if missing := [name for name in ROOT if not Path(name).exists()]:
        raise UserError(f"{Path.cwd()} has no {', no '.join(missing)}; run this in the root of the project")
    pipeline = Pipeline(path)
    lock = pipeline.file.with_suffix(".lock")
    outputs = {step.stage: set(map(str, step.outputs)) for step in pipeline.steps()}
    claim(Path("scratch"))
    with _without_dvc():
        (TEMPORARY / "rwlock").unlink(missing_ok=True)
        recorded = drop_part(lock, outputs) if lock.exists() else set()
    finished = _finished(path)
    missing = [stage for stage, files in outputs.items() if stage not in recorded and finished >= files]
    if missing:
        names = [f"{pipeline.file}:{stage}" for stage in missing]
        subprocess.run(["dvc", "commit", "--force", "--quiet", *names], check=True)
    return missing


@contextmanager
def _without_dvc() -> Iterator[None]:
    """Hold the lock without which no DVC touches these files. Raises :class:`UserError` where one has it."""
    TEMPORARY.mkdir(parents=True, exist_ok=True)
    with (TEMPORARY / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("dvc is running in this folder; wait until it ends, or stop it with Ctrl-C") from None
        yield


def drop_part(lock: Path, outputs: Mapping[str, set[str]]) -> set[str]:
    """Cut off the last stage in DVC's lock file where it is not whole. Returns the stages that are left.

    ``outputs`` are the files of each stage, which stand last in it.
    """
    text = lock.read_text(encoding="utf-8", errors="replace")  # it may end inside a character
    head, *entries = re.split(r"^(?=  \S)", text[: text.rfind("\n") + 1], flags=re.MULTILINE)
    stages = {entry.partition(":")[0].strip(): entry for entry in entries}
    for stage, entry in list(stages.items())[-1:]:
        written = re.findall(r"^    - path: (.*)$", entry.partition("    outs:\n")[2], flags=re.MULTILINE)
        if not (LAST_LINE.search(entry) and outputs.get(stage, set()) <= set(written)):
            del stages[stage]
    left = head + "".join(stages.values())
    if not stages:
        lock.unlink()
    elif left != text:
        write_text(lock, left)
    return set(stages)


def _finished(path: Path) -> set[str]:
    """The files that Snakemake would not make again."""
    study = [] if path == DEFAULT_STUDY else ["--configfile", str(path)]
    listed = subprocess.run(["snakemake", "--summary", *study], stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = [line.split("\t") for line in listed.splitlines()]
    return {row[0] for row in rows if row[-2:] == ["ok", "no update"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="config/STUDY.yaml")
    try:
        told = mend(parser.parse_args().study)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"dvc was told of {', '.join(told)}; dvc repro goes on" if told else "dvc repro goes on")


if __name__ == "__main__":
    main()

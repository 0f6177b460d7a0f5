"""DVC's own files as a kill can leave them: what DVC says, and that it goes on after `make mend`, repeating nothing."""

import fcntl
import re
from itertools import accumulate
from pathlib import Path

import pytest
from project_copy import Project
from promises import refused, said

from imbdet.mend import drop_part, mend

STAGE = "train-ce-seed-1"
MENDED = pytest.mark.promise(
    "Whatever part of its own files a killed dvc has left, `make mend` has it go on, and nothing is repeated", "fault"
)


@pytest.fixture(scope="module")
def trained(untrained: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The study with one training that DVC has finished. Each test leaves it like that."""
    project = untrained.copy(tmp_path_factory.mktemp("mend") / "project")
    assert project.stages(STAGE) == [STAGE]
    return project


@pytest.fixture
def lock(trained: Project) -> str:
    return (trained.folder / "dvc.lock").read_text()


def mended(project: Project) -> list[str]:
    """The stages that DVC runs after `make mend`."""
    project.make("mend")
    return project.stages(STAGE)


RWLOCKS = {
    "empty": ("", "Unable to read RWLock-file.*JSON structure is corrupted"),
    "cut off": ('{"write": {}, "read": {"/pro', "Unable to read RWLock-file.*JSON structure is corrupted"),
    "something else": ("[]", "RWLock-file.*format error"),
}


@MENDED
@pytest.mark.parametrize(("left", "message"), RWLOCKS.values(), ids=RWLOCKS)
def test_a_part_of_the_lock_of_paths(trained: Project, left: str, message: str) -> None:
    (trained.folder / ".dvc" / "tmp" / "rwlock").write_text(left)
    refused = trained.run("dvc", "repro", STAGE, check=False)
    assert refused.returncode != 0
    said(message, refused.stdout)
    assert mended(trained) == []


@MENDED
def test_no_byte_of_the_lock_file(trained: Project, lock: str) -> None:
    """The moment between opening it and writing, which is seconds for a large one."""
    (trained.folder / "dvc.lock").write_text("")
    refused = trained.run("dvc", "repro", STAGE, check=False)
    assert refused.returncode != 0
    said(r"dvc\.lock' validation failed", refused.stdout)
    assert mended(trained) == []
    assert (trained.folder / "dvc.lock").read_text() == lock


@MENDED
@pytest.mark.parametrize("cut_off", ["a stage", "part of a stage"])
def test_a_part_of_the_lock_file(trained: Project, lock: str, cut_off: str) -> None:
    """DVC itself says nothing and would train again."""
    begin = lock.index(f"  {STAGE}:\n")
    # At the end of an entry: a part of a hash may be no hash, of which DVC does say something.
    entry = lock.rindex("    - path: ", begin, (begin + len(lock)) // 2)
    (trained.folder / "dvc.lock").write_text(lock[: begin if cut_off == "a stage" else entry])
    would_run = trained.run("dvc", "repro", "--dry", STAGE).stdout
    assert f"Running stage '{STAGE}'" in would_run
    assert mended(trained) == []
    assert (trained.folder / "dvc.lock").read_text() == lock


@MENDED
def test_locks_of_a_process_that_is_gone(trained: Project) -> None:
    """These DVC takes for what they are, with `make mend` or without."""
    gone, output = 2**22, trained.folder / "models/demo/ce/seed-1.pt"  # above the largest pid
    folder = trained.folder / ".dvc" / "tmp"
    (folder / "rwlock").write_text(f'{{"write": {{"{output}": {{"pid": {gone}, "cmd": "dvc repro"}}}}, "read": {{}}}}')
    (folder / "lock").write_text(f"{gone}\n")
    (folder / "rwlock.lock").write_text(f"{gone}\n")
    assert trained.stages(STAGE) == []


def test_a_training_that_was_changed_is_not_taken_for_finished(trained: Project, tmp_path: Path) -> None:
    project = trained.copy(tmp_path / "project")
    (project.folder / "dvc.lock").unlink()
    project.edit("config/demo.yaml", "alpha: null", "alpha: 0.5")
    assert f"'{STAGE}'" in project.run("dvc", "repro", "--dry", STAGE).stdout
    assert "dvc was told of data;" in project.make("mend").stdout


@pytest.mark.parametrize(("held", "message"), [(".dvc/tmp/lock", "dvc is running"), ("scratch/run.lock", "is already")])
def test_nothing_is_mended_while_a_run_is_under_way(trained: Project, held: str, message: str) -> None:
    rwlock = trained.folder / ".dvc" / "tmp" / "rwlock"
    before = rwlock.read_text()
    with (trained.folder / held).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = trained.make("mend", check=False)
    assert refused.returncode != 0
    assert message in refused.stdout
    assert rwlock.read_text() == before


def test_a_lock_file_that_ends_anywhere_keeps_the_stages_that_are_whole(lock: str, tmp_path: Path) -> None:
    head, *entries = re.split(r"^(?=  \S)", lock, flags=re.MULTILINE)
    names = [entry.partition(":")[0].strip() for entry in entries]
    outputs = {
        name: set(re.findall("- path: (.*)", entry.partition("    outs:\n")[2]))
        for name, entry in zip(names, entries, strict=True)
    }
    ends = list(accumulate([head, *entries]))
    lines = {match.end() for match in re.finditer("\n", lock)}
    file = tmp_path / "dvc.lock"
    for cut in sorted({*range(0, len(lock) + 1, 7), *lines}):
        file.write_text(lock[:cut])
        whole = sum(len(end) <= cut for end in ends[1:])
        assert drop_part(file, outputs) == set(names[:whole])
        assert (file.read_text() if file.exists() else head) == ends[whole]


def test_a_lock_file_that_ends_inside_a_character_is_mended(tmp_path: Path) -> None:
    entry = "  {0}:\n    cmd: {0}\n    outs:\n    - path: /data/Übung/{0}\n      size: 1\n"
    whole = ("schema: '2.0'\nstages:\n" + entry.format("one")).encode()
    part = entry.format("two").encode()
    file = tmp_path / "dvc.lock"
    for cut in range(len(part)):
        file.write_bytes(whole + part[:cut])
        assert drop_part(file, {name: {f"/data/Übung/{name}"} for name in ("one", "two")}) == {"one"}
        assert file.read_bytes() == whole


def test_outside_a_project_nothing_is_mended_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Path("config/demo.yaml").resolve()
    monkeypatch.chdir(tmp_path)
    with refused(r"has no Snakefile, no \.dvc/config; run this in the root of the project"):
        mend(study)
    assert not list(tmp_path.iterdir())

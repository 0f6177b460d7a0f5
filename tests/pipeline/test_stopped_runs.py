"""Runs that meet another run, Ctrl-C, kill -9 or a cluster's preemption."""

import os
import signal
from collections.abc import Iterator

import pytest
from project_copy import Project, wait_until
from promises import said

COMMANDS = {"snakemake": ["snakemake", "--", "models/demo/ce/seed-1.pt"], "dvc": ["dvc", "repro", "train-ce-seed-1"]}
SOMEBODY = r"already running in this folder: process \d+ on .*, since 20.*:"
HOLDER = {
    # What the other tool says of who holds the folder, by who does.
    "snakemake": rf"{SOMEBODY} snakemake -- models/demo/ce/seed-1\.pt\.",
    "dvc": rf"{SOMEBODY} snakemake .*\(stage train-ce-seed-1 of dvc\)\.",
}


def begun(project: Project, tool: str):
    """A training that goes on for long, after its first checkpoint."""
    run = project.start(*COMMANDS[tool])
    wait_until(lambda: list((project.folder / "scratch/demo/ce/seed-1").glob("*/step-*.pt")) or run.poll(), seconds=60)
    assert run.poll() is None, run.communicate()[0]
    return run


@pytest.fixture
def long(trainings: Project) -> Iterator[Project]:
    """A study whose trainings do not end within a test; what still runs when the test ends is killed."""
    trainings.edit("config/demo.yaml", "steps: 30", "steps: 100000")
    yield trainings
    for pid in trainings.processes():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.promise("Two runs at once in one folder: the second says who holds it", "fault")
@pytest.mark.parametrize("first", COMMANDS)
def test_a_second_run_is_told_who_holds_the_folder(long: Project, first: str, record_property) -> None:
    run = begun(long, first)
    for second, command in COMMANDS.items():
        refused = long.run(*command, check=False)
        assert refused.returncode != 0
        assert "Traceback" not in refused.stdout
        both_dvc = first == second == "dvc"
        said(r"blocked by:\s+\(PID \d+\): .*dvc repro" if both_dvc else HOLDER[first], refused.stdout)
        assert run.poll() is None
        assert len(long.trainers()) == 1
    record_property("count", len(COMMANDS))


@pytest.mark.promise("Ctrl-C stops a run within 10 s, and the next one resumes", "fault")
@pytest.mark.parametrize("tool", COMMANDS)
def test_ctrl_c_stops_a_run_which_the_next_resumes(long: Project, tool: str) -> None:
    run = begun(long, tool)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does, to all processes of the run
    wait_until(lambda: not long.processes(), seconds=10)
    output, _ = run.communicate()
    assert run.returncode != 0
    assert "Traceback" not in output
    log = long.folder / "logs/demo/ce/seed-1/train.log"
    said(r"ce: asked to stop; the same command resumes at step \d+", log.read_text())
    log.unlink()
    begun(long, tool)
    wait_until(lambda: "ce: resumed at step " in (log.read_text() if log.exists() else ""), seconds=60)


@pytest.mark.promise("A training that a cluster preempts is started again by Snakemake, and resumes", "fault")
def test_a_preempted_training_is_started_again(trainings: Project) -> None:
    run = begun(trainings, "snakemake")
    (trainer,) = trainings.trainers()
    os.kill(trainer, signal.SIGTERM)
    output, _ = run.communicate()
    assert run.returncode == 0, output
    assert "Trying to restart job" in output
    said(r"ce: resumed at step \d+ of 30", (trainings.folder / "logs/demo/ce/seed-1/train.log").read_text())


@pytest.mark.promise("kill -9 of snakemake or dvc leaves no process training", "kill")
@pytest.mark.parametrize("tool", COMMANDS)
def test_no_training_outlives_a_killed_run(long: Project, tool: str) -> None:
    run = begun(long, tool)
    run.kill()
    run.wait()
    wait_until(lambda: not long.processes(), seconds=10)

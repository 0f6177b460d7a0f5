"""kill -9 of Snakemake and of DVC at random moments: the same command completes, and nothing is left running."""

import json
import random
import re
import subprocess
import time

import pytest
import yaml
from project_copy import Project, wait_until

NAMES = ("ce", "focal-g2.0")
COMMANDS = {
    "snakemake": ["snakemake", "--", *(f"models/demo/{name}.pt" for name in NAMES)],
    "dvc": ["dvc", "repro", *(f"train-{name}" for name in NAMES)],
}
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 11))]


def record(project: Project, name: str) -> str:
    """A training's record as it stands, which says when it finished."""
    return (project.folder / f"results/demo/{name}/training.json").read_text()


def finished(project: Project, tool: str, output: str) -> set[str]:
    """The experiments whose training the tool itself has called finished, in its lock file or its output."""
    if tool == "dvc":
        stages = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]
        return {name for name in NAMES if f"train-{name}" in stages}
    experiments = dict(
        re.findall(r"^ +jobid: (\d+)\n(?:    .*\n)*? +wildcards: experiment=(\S+)", output, re.MULTILINE)
    )
    return {experiments[job] for job in re.findall(r"^Finished jobid: (\d+) \(Rule: train\)", output, re.MULTILINE)}


def killed(project: Project, tool: str, moment: float) -> tuple[bool, str]:
    """Run the command, kill the tool alone after so many seconds; whether it was still running, and its output."""
    run = project.start(*COMMANDS[tool])
    try:
        run.wait(moment)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()
    wait_until(lambda: not project.processes(), seconds=10)
    return run.returncode != 0, run.communicate()[0]


@pytest.mark.promise(
    "kill -9 of snakemake or dvc: the same command completes, and nothing finished is repeated", "kill"
)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tool", COMMANDS)
def test_a_killed_run_completes(trainings: Project, tool: str, seed: int, record_property) -> None:
    draw = random.Random(f"{tool} {seed}")
    kept: dict[str, str] = {}
    kills = 0
    for _ in range(2):
        hit, output = killed(trainings, tool, moment=draw.uniform(1, 12))
        kills += hit
        kept |= {name: record(trainings, name) for name in finished(trainings, tool, output) - kept.keys()}
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    trainings.run(*COMMANDS[tool])
    for name in NAMES:
        now = record(trainings, name)
        assert now == kept.get(name, now), f"{name} was trained again"
        if name in kept:
            assert json.loads(now)["measured"]["finished"] <= began
    assert kills > 0
    record_property("count", kills)

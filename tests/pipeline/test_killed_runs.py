"""kill -9 of Snakemake and of DVC at random moments: the same command completes, and nothing is left running.

Before it DVC needs `make mend`, as README says: it writes its own files in place.
"""

import itertools
import json
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from project_copy import Project, wait_until

NAMES = ("ce", "focal-g2.0")
COMMANDS = {
    "snakemake": ["snakemake", "--", *(f"models/demo/{name}/seed-1.pt" for name in NAMES)],
    "dvc": ["dvc", "repro", *(f"train-{name}-seed-1" for name in NAMES)],
}
KILLS = 2  # of each run
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 11))]


def record(project: Project, name: str) -> str:
    """A training's record as it stands, which says when it finished."""
    return (project.folder / f"results/demo/{name}/seed-1/training.json").read_text()


def finished(project: Project, tool: str, output: str) -> set[str]:
    """The experiments whose training the tool itself has called finished, in its lock file or its output."""
    if tool == "dvc":
        stages = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]
        return {name for name in NAMES if f"train-{name}-seed-1" in stages}
    experiments = dict(
        re.findall(r"^ +jobid: (\d+)\n(?:    .*\n)*? +wildcards: experiment=([^,\s]+)", output, re.MULTILINE)
    )
    return {experiments[job] for job in re.findall(r"^Finished jobid: (\d+) \(Rule: train\)", output, re.MULTILINE)}


def killed(project: Project, tool: str, moment: float) -> tuple[bool, float, str]:
    """Run the command, kill the tool alone after so many seconds, and have DVC's files put right.

    Whether it was still running, for how long it ran, and its output.
    """
    began = time.monotonic()
    run = project.start(*COMMANDS[tool])
    try:
        run.wait(moment)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()
    seconds = time.monotonic() - began
    wait_until(lambda: not project.processes(), seconds=10)
    output = run.communicate()[0]
    assert run.returncode in (0, -signal.SIGKILL), output
    if tool == "dvc":
        project.make("mend")
    return run.returncode != 0, seconds, output


@pytest.mark.promise(
    "kill -9 of snakemake, or of dvc and then `make mend`: the same command completes, nothing finished is repeated",
    "kill",
)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tool", COMMANDS)
def test_a_killed_run_completes(untrained: Project, tool: str, seed: int, tmp_path: Path, record_property) -> None:
    draw = random.Random(f"{tool} {seed}")
    fresh = (untrained.copy(tmp_path / str(number)) for number in itertools.count())
    project, kept, kills, longest = next(fresh), dict[str, str](), 0, 12.0
    while kills < KILLS:
        hit, seconds, output = killed(project, tool, moment=draw.uniform(0.5, longest))
        kills += hit
        if not hit:  # it was done before, as on a fast machine: anew, and earlier
            project, kept, longest = next(fresh), {}, seconds
            continue
        kept |= {name: record(project, name) for name in finished(project, tool, output) - kept.keys()}
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    project.run(*COMMANDS[tool])
    for name in NAMES:
        now = record(project, name)
        assert now == kept.get(name, now), f"{name} was trained again"
        if name in kept:
            assert json.loads(now)["measured"]["finished"] <= began
    record_property("count", kills)

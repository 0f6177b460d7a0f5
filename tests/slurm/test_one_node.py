"""A study through the Slurm profile gives the records of a local run; `make test-slurm` starts the Slurm for it."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from project_copy import Project, copy_of_project, wait_until
from studies import merged

pytestmark = pytest.mark.skipif("SLURM_TEST" not in os.environ, reason="needs root: `make test-slurm`")
TINY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"
CHANGES = {"train": {"steps": 120, "checkpoint_every": 5}}  # long enough to be preempted
STEPS = ["--until", "evaluate"]
THROUGH_SLURM = ["snakemake", "--workflow-profile", "profiles/slurm", *STEPS]
ON_GPU, ON_CPU = {"train", "detect"}, {"data", "evaluate"}


@dataclass(frozen=True)
class Runs:
    """The same study run locally and through Slurm; what the second Snakemake said that tried to run beside it."""

    local: Project
    remote: Project
    refused: str

    @property
    def jobs(self):
        """Lines of the log of Slurm's jobs: event, time, job, rule, GPUs."""
        text = (Path(os.environ["SLURM_TEST"]) / "jobs.log").read_text()
        pattern = r"(\w+) ([\d.]+) (\d+) comment=(?:rule_(\w+?)(?:_wildcards_\S+)?)? gpus=(\S*)"
        lines = [re.fullmatch(pattern, line).groups() for line in text.splitlines()]
        return [(event, float(time), *rest) for event, time, *rest in lines]


def prepared(folder):
    project = copy_of_project(folder)
    study = merged(yaml.safe_load(TINY.read_text()), CHANGES)
    (folder / "config" / "demo.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return project


def shrink(profile):
    """The profile for a node with a core and half a gigabyte a job, without accounts and without accounting."""
    values = yaml.safe_load(profile.read_text())
    values["default-resources"] |= {"mem_mb": 500}
    for resources in values["set-resources"].values():
        resources["mem_mb"] = 1000
    values["set-threads"] = dict.fromkeys(values["set-threads"], 1)
    values |= {"slurm-no-account": True, "slurm-status-command": "squeue", "latency-wait": 5}
    values |= {"slurm-init-seconds-before-status-checks": 1, "seconds-between-status-checks": 1}
    profile.write_text(yaml.safe_dump(values))


def preempt_a_training(run, project):
    """Cancel a job that trains and has written a checkpoint: SIGTERM, and SIGKILL half a minute later."""
    wait_until(lambda: [*project.folder.glob("scratch/**/step-*.pt")] or run.poll() is not None, seconds=120)
    assert run.poll() is None, run.communicate()[0]
    listing = ["squeue", "--noheader", "--states=running", "--format=%i %k"]
    queue = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    (job,) = re.findall(r"^(\d+) rule_train", queue, re.MULTILINE)  # one has the GPU
    subprocess.run(["scancel", job], check=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    local, remote = (prepared(tmp_path_factory.mktemp(name)) for name in ("local", "remote"))
    local.run("snakemake", *STEPS)
    shrink(remote.folder / "profiles" / "slurm" / "profile.yaml")
    run = remote.start(*THROUGH_SLURM)
    preempt_a_training(run, remote)
    refused = remote.run("snakemake", *STEPS, check=False).stdout
    output, _ = run.communicate()
    assert run.returncode == 0, output
    return Runs(local, remote, refused)


def records(project):
    """Content of every record: what was measured, and on what, is of the run and left out."""
    found = {}
    for path in filter(Path.is_file, (project.folder / "results").rglob("*")):
        text = path.read_text()
        if path.name == "training.json":
            text = {key: value for key, value in json.loads(text).items() if key not in ("measured", "hardware")}
        found[str(path.relative_to(project.folder))] = text
    return found


def test_the_records_are_those_of_a_local_run(runs):
    local, remote = records(runs.local), records(runs.remote)
    assert sum(name.endswith("evaluation.json") for name in local) == 2
    assert remote == local


def test_a_preempted_training_goes_on_where_it_stopped(runs):
    """Its weights are those of the local run by the test above: a record holds their hash."""
    logs = "".join(path.read_text() for path in (runs.remote.folder / "logs").rglob("train.log"))
    (step,) = re.findall(r"resumed at step (\d+)", logs)
    assert 5 <= int(step) < 120
    jobs = [rule for event, _, _, rule, _ in runs.jobs if event == "begin" and rule == "train"]
    assert len(jobs) == 3  # two experiments, one of them twice


def test_every_step_is_a_job_and_those_with_a_network_have_the_gpu(runs):
    begun = {(rule, gpus) for event, _, _, rule, gpus in runs.jobs if event == "begin"}
    assert begun == {(rule, "0") for rule in ON_GPU} | {(rule, "") for rule in ON_CPU}
    allocated = {job: gpus for event, _, job, _, gpus in runs.jobs if event == "begin"}
    for event, _, job, _, gpus in runs.jobs:  # each process of a job may use what was allocated to it
        assert event != "process" or gpus == allocated[job]


def test_one_job_at_a_time_has_the_gpu(runs):
    changes = [(time, event) for event, time, _, rule, _ in runs.jobs if rule in ON_GPU]
    events = [event for _, event in sorted(changes)]
    assert events == ["begin", "end"] * (len(events) // 2)
    assert len(events) == 2 * 5  # train and detect of two experiments, and once more the training that was preempted


def test_no_second_run_starts_in_the_folder_meanwhile(runs):
    assert "already running in this folder" in runs.refused

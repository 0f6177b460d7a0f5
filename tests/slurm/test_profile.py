"""The Slurm profile asks for what each rule needs, whatever the machine on which Snakemake runs has."""

import re
from pathlib import Path

import pytest
import yaml
from project_copy import copy_of_project

ROOT = Path(__file__).parents[2]
PROFILE = yaml.safe_load((ROOT / "profiles" / "slurm" / "profile.yaml").read_text())


def rules_with_a_network():
    """Names of the rules that ask for a GPU where there is one."""
    text = "\n".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    bodies = re.findall(r"^ *rule (\w+):\n(.*?)(?=^ *rule |\Z)", text, re.MULTILINE | re.DOTALL)
    return {name for name, body in bodies if re.search(r"^ *gpu=gpu,", body, re.MULTILINE)}


def test_every_rule_with_a_network_asks_for_a_gpu_and_cores():
    rules = rules_with_a_network()
    assert {"train", "detect"} <= rules
    assert {name for name, resources in PROFILE["set-resources"].items() if resources.get("gpu")} == rules
    assert set(PROFILE["set-threads"]) == rules


def test_every_job_has_a_limit_of_memory_and_time():
    assert {"mem_mb", "runtime"} <= set(PROFILE["default-resources"])


def test_what_the_default_profile_guards_against_is_guarded_against_here():
    default = yaml.safe_load((ROOT / "profiles" / "default" / "profile.yaml").read_text())
    shared = ("rerun-incomplete", "show-failed-logs", "nolock")
    assert {key: PROFILE[key] for key in shared} == {key: default[key] for key in shared}


def test_snakemake_takes_the_profile(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    project = copy_of_project(tmp_path)
    plan = project.run("snakemake", "--dry-run", "--workflow-profile", "profiles/slurm", "--until", "train").stdout
    (resources, *others) = set(re.findall(r"^rule train:\n(?:    .*\n)*?    resources: (.*)", plan, re.MULTILINE))
    assert not others
    assert "gpu=1" in resources
    assert "mem_mb=32000" in resources
    assert "runtime=2880" in resources

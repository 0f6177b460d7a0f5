"""A study with a base in both tools: a change of the base makes stale what it changes in the heir, and nothing else."""

import json
from pathlib import Path

import pytest
from project_copy import Project

FOCAL = "focal-g2.0"
HEIR = """\
base: demo
data: {folder: data/heir}
train: {steps: 4, checkpoint_every: 500}
experiments: {ce: {label: "CE of the heir"}}
"""
PIPELINE = "pipelines/heir/dvc.yaml"
RECORD = f"results/heir/{FOCAL}/seed-1/training.json"
EVALUATED = [f"results/heir/{name}/seed-1/evaluation.json" for name in ("ce", FOCAL)]
OF_FOCAL = ["train", "detect", "evaluate"]


@pytest.fixture(scope="module")
def evaluated(untrained: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A study whose base is the demo, trained and evaluated by DVC. Not to be changed by a test."""
    project = untrained.copy(tmp_path_factory.mktemp("heirs") / "project")
    (project.folder / "config" / "heir.yaml").write_text(HEIR)
    project.run("python", "-m", "imbdet.pipeline", "config/heir.yaml")
    (project.folder / "pipelines/heir/study.yaml").unlink()  # DVC writes it again, like any output
    ran = repro(project)
    assert ran[0] == "study"
    assert set(ran) == {"study", "data", *(f"{rule}-{name}-seed-1" for rule in OF_FOCAL for name in ("ce", FOCAL))}
    return project


@pytest.fixture
def heir(evaluated: Project, tmp_path: Path) -> Project:
    return evaluated.copy(tmp_path / "project")


def repro(project: Project) -> list[str]:
    """The stages that ran on the way to the evaluations."""
    ran = project.stages(*(f"{PIPELINE}:evaluate-{name}-seed-1" for name in ("ce", FOCAL)))
    return [stage.rpartition(":")[2] for stage in ran]


def jobs(project: Project) -> list[tuple[str, str]]:
    """What Snakemake would run on the way to the evaluations."""
    return [job.step for job in project.jobs("--config", "study=heir", "--", *EVALUATED)]


def test_nothing_is_left_to_do(heir: Project) -> None:
    assert repro(heir) == []
    assert jobs(heir) == []


def test_the_record_holds_the_resolved_configuration_and_a_rerun_needs_no_base(heir: Project) -> None:
    record = json.loads((heir.folder / RECORD).read_text())
    assert record["study"] == "heir"
    assert record["config"]["train"]["steps"] == 4
    assert record["config"]["train"]["optimizer"]["lr"] == 0.01
    assert record["config"]["data"]["folder"] == "data/heir"
    assert record["config"]["methods"]["dense"]["gamma"] == 2.0
    for name in ("heir", "demo"):
        (heir.folder / "config" / f"{name}.yaml").unlink()
    heir.run("python", "-m", "imbdet", "rerun", RECORD)


def test_a_value_of_the_base_concerns_the_steps_of_the_heir_that_read_it(heir: Project) -> None:
    heir.edit("config/demo.yaml", "gamma: 2.0", "gamma: 3.0")
    assert sorted(jobs(heir)) == sorted((rule, FOCAL) for rule in OF_FOCAL)
    assert repro(heir) == ["study", *(f"{rule}-{FOCAL}-seed-1" for rule in OF_FOCAL)]
    assert json.loads((heir.folder / RECORD).read_text())["config"]["methods"]["dense"]["gamma"] == 3.0
    assert repro(heir) == []
    assert jobs(heir) == []


def test_a_value_of_the_base_that_the_heir_has_itself_concerns_none(heir: Project) -> None:
    heir.edit("config/demo.yaml", "steps: 30", "steps: 40")
    assert jobs(heir) == []
    assert repro(heir) == ["study"]


def test_a_wrong_value_of_the_base_is_explained(heir: Project) -> None:
    heir.edit("config/demo.yaml", "flip: 0.5", "flip: 5")
    with_dvc = ["dvc", "repro", "--single-item", f"{PIPELINE}:train-ce-seed-1", "--force"]
    for command in (["snakemake", "--config", "study=heir", "--dry-run"], with_dvc):
        refused = heir.run(*command, check=False)
        assert refused.returncode != 0
        assert "config/demo.yaml, base of config/heir.yaml: train.flip is 5" in refused.stdout
        assert "Traceback" not in refused.stdout


def test_after_a_kill_dvc_is_told_of_what_the_heir_has_finished(heir: Project) -> None:
    (heir.folder / "pipelines/heir/dvc.lock").unlink()
    told = heir.make("mend", "STUDY=heir").stdout
    assert f"evaluate-{FOCAL}-seed-1" in told
    assert repro(heir) == ["study"]

"""DVC and Snakemake agree on what is done, whichever of them did it, also after a clone."""

import json
import re
from pathlib import Path

import pytest
from dvc.repo import Repo
from project_copy import Project

FOCAL = "focal-g2.0"
PER_SEED = ("train", "detect", "evaluate", "errors")
RETRAINED = {f"{rule}-{FOCAL}-seed-{seed}" for rule in PER_SEED for seed in (1, 2)}
RETRAINED |= {f"{rule}-{FOCAL}-seed-1" for rule in ("inspect", "loss_samples")}


def nothing_to_do(project: Project) -> bool:
    return "Nothing to be done" in project.run("snakemake", "--dry-run").stdout


def declared(project: Project, file: str) -> set[tuple[frozenset[str], frozenset[str]]]:
    """Inputs and outputs of every stage in one of DVC's files."""
    stages = set()
    with Repo(str(project.folder)) as repo:
        for stage in repo.stage.load_all(str(project.folder / file)):
            files = {Path(d.fs_path).relative_to(project.folder).as_posix() for d in stage.deps}
            # The study's file, whose keys are parameters, and the file of the rule: what Snakemake sees for itself.
            inputs = {name for name in files if not name.startswith(("config/", "workflow/rules/"))}
            assert len(files - inputs) == 2
            outputs = {Path(o.fs_path).relative_to(project.folder).as_posix() for o in stage.outs}
            stages.add((frozenset(inputs), frozenset(outputs)))
    return stages


def test_the_graphs_are_equal(project: Project) -> None:
    assert declared(project, "dvc.yaml") == {(job.inputs, job.outputs) for job in project.jobs("--forceall")}


@pytest.mark.promise("The studies of COCO and LVIS build their graph, in both tools the same", "law")
@pytest.mark.parametrize("study", ["coco", "coco-subset", "lvis"])
def test_the_graphs_of_the_large_studies_are_equal(trainings: Project, study: str) -> None:
    trainings.run("python", "-m", "imbdet.pipeline", f"config/{study}.yaml")
    jobs = trainings.jobs("--config", f"study={study}")
    assert {job.rule for job in jobs} >= {"data", "census", "train", "detect", "evaluate", "inspect"}
    assert declared(trainings, f"pipelines/{study}/dvc.yaml") == {(job.inputs, job.outputs) for job in jobs}


def test_records_are_in_git_and_the_rest_is_in_the_cache(project: Project) -> None:
    tracked = set(project.run("git", "ls-files").stdout.splitlines())
    with Repo(str(project.folder)) as repo:
        for out in (out for stage in repo.index.stages for out in stage.outs):
            name = Path(out.fs_path).relative_to(project.folder).as_posix()
            assert (name in tracked) == (not out.use_cache), name


def test_a_recorded_run_leaves_dvc_nothing_to_do(project: Project) -> None:
    assert project.stages() == []
    assert nothing_to_do(project)
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_an_unfinished_run_is_not_recorded(project: Project) -> None:
    project.edit("config/demo.yaml", "gamma: 2.0", "gamma: 3.0")
    refused = project.make("record", check=False)
    assert refused.returncode != 0
    assert "error: the run is not finished" in refused.stdout


def test_dvc_runs_what_changed_and_snakemake_then_has_nothing_to_do(project: Project) -> None:
    project.edit("config/demo.yaml", "gamma: 2.0", "gamma: 3.0")
    ran = project.stages()
    steps = {name for name in ran if not name.startswith("figure-")}
    assert steps == {*RETRAINED, "examples", "intervals"}
    assert nothing_to_do(project)
    assert project.stages() == []


def test_a_metric_and_a_parameter_with_a_dot_in_its_name_are_read(project: Project) -> None:
    metrics = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)
    assert f"results/demo/{FOCAL}/seed-1/evaluation.json" in json.dumps(metrics)
    project.edit("config/demo.yaml", "gamma: 2.0", "gamma: 3.0")
    status = json.loads(project.run("dvc", "status", "--json", "dvc.yaml").stdout)
    assert set(status) == {*RETRAINED, "intervals"}


def test_a_clone_is_restored_without_running_anything(clone: Project) -> None:
    clone.run("dvc", "pull")
    assert not nothing_to_do(clone)
    clone.make("restore")
    assert len(list((clone.folder / "data/demo/train").iterdir())) == 24
    assert nothing_to_do(clone)
    assert clone.stages() == []
    assert clone.run("git", "status", "--porcelain").stdout == ""
    clone.edit("config/demo.yaml", "gamma: 2.0", "gamma: 3.0")
    assert [job.name for job in clone.jobs() if job.rule == "train"] == [FOCAL, FOCAL]


def test_a_clone_that_pulled_nothing_is_not_restored(clone: Project) -> None:
    refused = clone.make("restore", check=False)
    assert refused.returncode != 0
    assert "error: these files differ from the recorded run: dvc pull dvc.yaml" in refused.stdout


def test_a_changed_figure_is_drawn_and_recorded_in_a_clone_without_data(clone: Project) -> None:
    clone.append("src/imbdet/figures/census.py", "# changed\n")
    drawn = clone.make("figures").stdout
    assert re.findall(r"^Running stage '(.*)':$", drawn, re.MULTILINE) == ["figure-census"]
    assert clone.run("dvc", "status", "dvc.yaml:figure-census").stdout == "Data and pipelines are up to date.\n"

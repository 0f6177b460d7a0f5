"""What Snakemake runs again after a change, proved on a finished study."""

import fcntl
import json
import re
import sys

import pytest
from project_copy import Project
from promises import said

FOCAL = "focal-g2.0"
TWO = "two-stage"
FRAME = {
    f"src/imbdet/{name}"
    for name in ("signals", "bases", "study_file", "study_yaml", "training", "training/environment", "training/launch")
}
RUN = ("train", "detect", "evaluate", "errors", "inspect")
TRAINED = {(rule, FOCAL) for rule in (*RUN, "loss_samples")} | {("intervals", "")}
TRAINED_TWO = {(rule, TWO) for rule in RUN} | {("funnel", ""), ("intervals", "")}
EVALUATED = {("evaluate", name) for name in ("ce", FOCAL, TWO)}


def steps(project: Project) -> set[tuple[str, str]]:
    """What would run, figures aside, as (rule, experiment or detector)."""
    return {job.step for job in project.jobs() if not job.rule.startswith("figure_")}


def figures(project: Project) -> set[str]:
    return {job.rule.removeprefix("figure_") for job in project.jobs() if job.rule.startswith("figure_")}


def test_nothing_is_left_to_do_after_a_run(project: Project) -> None:
    assert "Nothing to be done" in project.run("snakemake", "--dry-run").stdout
    assert "Nothing to be done" in project.run("snakemake", "--dry-run", "--config", "study=demo").stdout


def test_every_step_wrote_what_it_declares(project: Project) -> None:
    jobs = project.jobs("--forceall")
    censuses = {("census", "retinanet"), ("census", "faster_rcnn")}
    expected = {("data", ""), ("examples", ""), *censuses, *TRAINED, *TRAINED_TWO, *EVALUATED}
    assert expected <= {job.step for job in jobs}
    for name in set().union(*(job.outputs for job in jobs)):
        assert (project.folder / name).stat().st_size > 0


def test_changing_one_gamma_retrains_one_experiment(project: Project) -> None:
    project.edit("config/demo.yaml", "gamma: 2.0", "gamma: 3.0")
    assert steps(project) == {*TRAINED, ("examples", "")}
    assert {"loss_curves", "precision_recall", "results"} <= figures(project)
    assert not {"census", "structure", "focal_loss_pt", "derivatives"} & figures(project)
    before = (project.folder / "models/demo/ce/seed-1.pt").stat().st_mtime_ns
    project.run("snakemake", "--", f"results/demo/{FOCAL}/seed-1/training.json", "results/demo/ce/seed-1/training.json")
    record = json.loads((project.folder / f"results/demo/{FOCAL}/seed-1/training.json").read_text())
    assert record["config"]["methods"]["dense"]["gamma"] == 3.0
    assert (project.folder / "models/demo/ce/seed-1.pt").stat().st_mtime_ns == before


def test_changing_a_detector_retrains_its_experiments(project: Project) -> None:
    project.edit("config/demo.yaml", "head_channels: 16", "head_channels: 8")
    assert steps(project) == {*TRAINED_TWO, ("census", "faster_rcnn")}
    assert not {"census", "structure"} & figures(project)  # which show the first detector


def test_changing_the_method_of_one_stage_retrains_its_experiment(project: Project) -> None:
    project.edit("config/demo.yaml", "activation: softmax", "activation: sigmoid")
    assert steps(project) == {*TRAINED_TWO, ("census", "faster_rcnn")}


def test_changing_the_operating_score_retrains_nothing(project: Project) -> None:
    project.edit("config/demo.yaml", "operating_score: 0.3", "operating_score: 0.4")
    assert steps(project) == {*EVALUATED, ("examples", "")}


def test_changing_the_code_of_the_evaluation_retrains_nothing(project: Project) -> None:
    project.append("src/imbdet/evaluation/coco_ap.py", "# changed\n")
    assert steps(project) == EVALUATED


def test_changing_a_method_retrains_its_experiments(project: Project) -> None:
    project.append("src/imbdet/methods/focal.py", "# changed\n")
    assert steps(project) == {*TRAINED, ("examples", ""), ("evaluate", FOCAL)}


def test_changing_a_figure_draws_that_figure(project: Project) -> None:
    project.append("src/imbdet/figures/census.py", "# changed\n")
    assert steps(project) == set()
    assert figures(project) == {"census"}


def test_a_study_of_which_a_part_is_missing_makes_that_part(project: Project) -> None:
    (project.folder / "results/demo/ce/seed-1/precision_recall.csv").unlink()
    assert steps(project) == {("evaluate", "ce")}


def test_touching_a_file_changes_nothing(project: Project) -> None:
    (project.folder / "src/imbdet/losses.py").touch()
    (project.folder / "config/demo.yaml").touch()
    assert project.jobs() == []


WITH_GPU = "import imbdet.pipeline as p; p.has_gpu = lambda: True; from snakemake.cli import main; main()"


@pytest.mark.parametrize(
    ("at_once", "threads"), [([], 8), (["--resources", "gpu=4"], 2), (["--resources", "gpu=9"], 1)]
)
def test_networks_share_a_gpu_and_the_cores_as_told(trainings: Project, at_once: list[str], threads: int) -> None:
    command = [sys.executable, "-c", WITH_GPU, "--dry-run", "--forceall", "--cores", "8", *at_once]
    shown = re.findall(r"^rule train:\n((?: +.*\n)+)", trainings.run(*command).stdout, re.MULTILINE)
    assert shown
    for job in shown:
        assert re.search(r"resources: .*gpu=1\b", job)
        assert ([int(number) for number in re.findall(r"threads: (\d+)", job)] or [1]) == [threads]


@pytest.mark.promise("A wrong choice of study is refused", "bad input")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "seed=2"], r"--config seed=\.\.\. would have no effect"),
        (["--config", "study=dmeo"], r"no study config/dmeo\.yaml; did you mean 'config/demo\.yaml'"),
        (["--configfile", "config/demo.yaml", "--config", "study=demo"], "one study at a time"),
    ],
)
def test_a_wrong_choice_of_study_is_explained(trainings: Project, arguments: list[str], message: str) -> None:
    refused = trainings.run("snakemake", "--dry-run", *arguments, check=False)
    assert refused.returncode != 0
    said(message, refused.stdout)
    assert "Traceback" not in refused.stdout


@pytest.mark.promise("A study's file that is wrong is refused, with file, key, value and what is allowed", "bad input")
@pytest.mark.parametrize("command", [["snakemake", "--dry-run"], ["dvc", "repro", "--single-item", "train-ce-seed-1"]])
def test_a_mistake_in_the_study_is_explained(trainings: Project, command: list[str]) -> None:
    trainings.edit("config/demo.yaml", "  clip_norm: 10.0", "  clip_norm: 10.0\n  stepz: 3")
    refused = trainings.run(*command, check=False)
    assert refused.returncode != 0
    said(r"config/demo\.yaml: unknown key 'train\.stepz'; did you mean 'steps'\?", refused.stdout)
    assert "Traceback" not in refused.stdout


def test_a_refused_run_changes_nothing(project: Project) -> None:
    project.append("src/imbdet/figures/census.py", "# changed\n")
    with (project.folder / "scratch" / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = project.run("snakemake", check=False)
    assert refused.returncode != 0
    assert "snakemake or dvc is already running in this folder" in refused.stdout
    assert figures(project) == {"census"}


def test_each_command_imports_only_code_that_its_rule_declares(project: Project) -> None:
    """The logs hold the interpreter's own list of what was imported.

    Only the data command loads more: every method, to check the study before anything runs, which changes no file. Nor
    do the modules by which every command reads its study, is shared out, and ends with the run that started it.
    """
    for job in (job for job in project.jobs("--forceall") if job.rule != "data"):
        log = project.folder / job.log
        modules = set(re.findall(r"^import time:.*\| +(imbdet(?:\.\w+)*)$", log.read_text(), re.MULTILINE))
        assert len(modules) > 3, f"{log} lists no imports"
        paths = {f"src/{module.replace('.', '/')}" for module in modules}
        declared = {name.removesuffix(".py").removesuffix("/__init__") for name in job.inputs if name.endswith(".py")}
        assert paths - FRAME <= declared, job.rule


def test_the_report_shows_every_figure_with_its_caption(project: Project) -> None:
    project.run("snakemake", "--report", "report.html")
    report = (project.folder / "report.html").read_text()
    pictures = list((project.folder / "paper_figures" / "demo").glob("*.png"))
    assert len(pictures) > 5
    for picture in pictures:
        assert picture.relative_to(project.folder).as_posix() in report
    assert "generated shapes, 24 training images of 64 px" in report
    assert "One study of methods against imbalance in object detection" in report

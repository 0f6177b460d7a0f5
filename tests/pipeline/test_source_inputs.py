"""A study's own source is an input of the data step for both tools: its content counts, not its dates."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from project_copy import Project
from promises import said


def write_source(folder: Path) -> None:
    """Write a data set in COCO's format: four noise images a split, a box in each."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        images = [{"id": i, "file_name": f"{i}.bmp", "height": 64, "width": 64} for i in range(1, 5)]
        boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [8, 8, 24, 24]} for i in range(1, 5)]
        for image in images:
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / image["file_name"])
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def project(untrained: Project, tmp_path: Path) -> Project:
    """The tiny study on a folder in COCO's format beside the project, its data prepared by DVC."""
    project = untrained.copy(tmp_path / "project")
    write_source(tmp_path / "source")
    study = yaml.safe_load((project.folder / "config/demo.yaml").read_text())
    study["data"] = {"source": "coco_format", "folder": "data/own", "path": str(tmp_path / "source")}
    (project.folder / "config/demo.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    project.run("python", "-m", "imbdet.pipeline", "config/demo.yaml")
    assert project.stages("data") == ["data"]
    return project


def is_stale(project: Project) -> tuple[bool, bool]:
    """Whether Snakemake would run the data step, and whether DVC would."""
    by_dvc = json.loads(project.run("dvc", "status", "--json", "data").stdout)
    return ("data", "") in {job.step for job in project.jobs()}, bool(by_dvc)


def swap_picture(source: Path) -> None:
    """Put another picture of as many bytes in the place of one; of equal dates DVC would not read it again."""
    (source / "val" / "2.bmp").write_bytes((source / "val" / "3.bmp").read_bytes())


def correct_a_label(source: Path) -> None:
    path = source / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace("[8, 8, 24, 24]", "[9, 9, 25, 25]", 1))


@pytest.mark.promise("A source that changed after the preparation is read again", "law")
@pytest.mark.parametrize("change", [correct_a_label, swap_picture])
def test_a_changed_source_makes_the_data_step_stale(project: Project, change) -> None:
    source = project.folder.parent / "source"
    assert is_stale(project) == (False, False)
    for path in source.rglob("*"):
        path.touch()
    assert is_stale(project) == (False, False)
    before = (project.folder / "results/demo/data.json").read_text()
    change(source)
    assert is_stale(project) == (True, True)
    project.run("snakemake", "--", "data/own/annotations/instances_train.json")
    assert (project.folder / "results/demo/data.json").read_text() != before
    assert is_stale(project)[0] is False


@pytest.mark.promise("A source that is missing, damaged or not as its hash says is refused by name", "bad input")
def test_a_missing_source_is_named_by_both_tools(project: Project) -> None:
    source = project.folder.parent / "source"
    source.rename(source.with_name("away"))
    by_snakemake = project.run("snakemake", "--forcerun", "data", check=False)
    said(r"Missing input files for rule data:[^!]*affected files:\s+/\S*/source\s", by_snakemake.stdout)
    by_dvc = project.run("dvc", "repro", "data", check=False)
    said(r"failed to reproduce 'data'.*/source/annotations/instances_train.json'", by_dvc.stdout)
    assert by_snakemake.returncode != 0 != by_dvc.returncode


UNFIT = {
    "/data/{version}/x": r"data.path '/data/\{version\}/x' has one of the characters \{\}\$; rename it",
    "data/mine": r"data.path has images in data/mine/train, which .dvcignore hides from DVC: it would not see a change",
}


@pytest.mark.promise("Names and paths that a shell could take for more are refused", "bad input")
@pytest.mark.parametrize("path", UNFIT)
def test_a_path_that_a_tool_would_misread_is_refused(project: Project, path: str) -> None:
    (project.folder / "data/mine").mkdir()
    project.edit("config/demo.yaml", str(project.folder.parent / "source"), path)
    refused = project.run("snakemake", "--dry-run", check=False)
    assert refused.returncode != 0
    said(UNFIT[path], refused.stdout)

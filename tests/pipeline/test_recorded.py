"""What the repository says of its own runs: pipelines as generated, figures as their code and records give them."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from project_copy import GENERATED, ROOT, copy_of_project

from imbdet.bases import resolve
from imbdet.pipeline import DEFAULT_STUDY, Pipeline
from imbdet.study_yaml import read_values

LOCKS = [ROOT / "dvc.lock", *ROOT.glob("pipelines/*/dvc.lock")]


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_pipelines_are_what_their_studies_say(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo always has a pipeline file; another study has one once its run is recorded."""
    monkeypatch.chdir(ROOT)
    pipeline = Pipeline(path.relative_to(ROOT))
    assert {step.rule for step in pipeline.steps()} >= {"data", "train", "evaluate", "figure"}
    if pipeline.path == DEFAULT_STUDY or pipeline.file.exists():
        assert yaml.safe_load(pipeline.file.read_text()) == pipeline.stages()
        assert read_values(pipeline.plain) == resolve(pipeline.path).values


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.parent.name)
def test_figures_are_those_of_the_code_records_and_settings_beside_them(lock: Path, tmp_path: Path) -> None:
    """A change to what a figure is drawn from has to come with its outputs: make figures."""
    project = copy_of_project(tmp_path)
    for place in (ROOT / name for name in GENERATED if (ROOT / name).exists()):
        copy = shutil.copytree if place.is_dir() else shutil.copy2
        copy(place, tmp_path / place.name)
    project.git("init", "--quiet")
    file = lock.with_suffix(".yaml").relative_to(ROOT).as_posix()
    with Repo(str(tmp_path)) as repo:
        names = [stage.addressing for stage in repo.stage.load_all(str(tmp_path / file))]
    figures = [f"{file}:{name.split(':')[-1]}" for name in names if "figure-" in name]
    assert len(figures) > 5
    assert json.loads(project.run("dvc", "status", "--json", *figures).stdout) == {}

"""The stages written for DVC are Snakemake's jobs: the same files in and out, the same code, the same settings."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from imbdet.errors import UserError
from imbdet.pipeline import Pipeline, claim, select_study, write

ROOT = Path(__file__).parents[2]


def test_bare_snakemake_runs_the_demo() -> None:
    assert select_study({}, []) == Path("config/demo.yaml")


def test_a_study_is_chosen_by_name_or_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert select_study({"study": "coco"}, []) == Path("config/coco.yaml")
    assert select_study({}, [tmp_path / "config" / "coco.yaml"]) == Path("config/coco.yaml")


def test_a_value_on_the_command_line_is_refused() -> None:
    with pytest.raises(UserError, match=r"--config seed=\.\.\. would have no effect"):
        select_study({"study": "demo", "seed": 2}, [])


def test_two_studies_are_refused() -> None:
    with pytest.raises(UserError, match=r"one study at a time, got a\.yaml and config/coco\.yaml"):
        select_study({"study": "coco"}, [Path("a.yaml")])


def test_one_run_at_a_time(tmp_path: Path) -> None:
    claim(tmp_path)
    with pytest.raises(UserError, match="already running"):
        claim(tmp_path)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The tiny study in a folder that has the project's code."""
    (tmp_path / "src").symlink_to(ROOT / "src")
    (tmp_path / "config").mkdir()
    shutil.copy(Path(__file__).with_name("tiny.yaml"), tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return Pipeline(Path("config/tiny.yaml"))


def test_each_step_follows_those_whose_files_it_reads(tiny: Pipeline) -> None:
    written: set[Path] = set()
    for step in tiny.steps():
        assert set(step.inputs) <= written, step
        assert not set(step.outputs) & written, step
        written |= set(step.outputs)


def test_settings_are_the_values_in_the_file(tiny: Pipeline) -> None:
    raw = yaml.safe_load(tiny.path.read_text())
    settings = json.loads(tiny.settings("evaluate", "focal-g2.0"))
    assert settings == {
        "description": raw["description"],
        "seed": raw["seed"],
        "evaluate.detections_per_image": raw["evaluate"]["detections_per_image"],
        "evaluate.operating_score": raw["evaluate"]["operating_score"],
        "experiments.focal-g2.0": raw["experiments"]["focal-g2.0"],
    }


def test_a_study_beside_the_demo_has_its_own_file(tiny: Pipeline) -> None:
    file = write(tiny.path)
    assert file == Path("pipelines/tiny/dvc.yaml")
    stages = yaml.safe_load(file.read_text())["stages"]
    assert len(stages) == len(list(tiny.steps()))
    for stage in stages.values():
        assert stage["wdir"] == "../.."
        assert "--configfile config/tiny.yaml" in stage["cmd"]

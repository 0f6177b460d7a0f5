"""The stages written for DVC are Snakemake's jobs: the same files in and out, the same code, the same settings."""

import json
import shutil
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml
from promises import refused
from ruamel.yaml import YAML
from studies import merged, with_two_stages

from imbdet.bases import resolve
from imbdet.pipeline import Pipeline, select_study, write

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).with_name("tiny.yaml")
FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "sampled", "box_beta": 0.0}


def test_bare_snakemake_runs_the_demo() -> None:
    assert select_study({}, []) == Path("config/demo.yaml")


def test_a_study_is_chosen_by_name_or_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert select_study({"study": "coco"}, []) == Path("config/coco.yaml")
    assert select_study({}, [tmp_path / "config" / "coco.yaml"]) == Path("config/coco.yaml")


@pytest.mark.promise("A wrong choice of study is refused", "bad input")
def test_a_value_on_the_command_line_is_refused() -> None:
    with refused(r"--config seed=\.\.\. would have no effect"):
        select_study({"study": "demo", "seed": 2}, [])


@pytest.mark.promise("A wrong choice of study is refused", "bad input")
def test_two_studies_are_refused() -> None:
    with refused(r"one study at a time, got a\.yaml and config/coco\.yaml"):
        select_study({"study": "coco"}, [Path("a.yaml")])


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The tiny study in a folder that has the project's code."""
    (tmp_path / "src").symlink_to(ROOT / "src")
    (tmp_path / "config").mkdir()
    shutil.copy(TINY, tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return Pipeline(Path("config/tiny.yaml"))


def changed(pipeline: Pipeline, changes: dict[str, Any]) -> Pipeline:
    """The tiny study with a second detector and some of its values changed."""
    raw = merged(with_two_stages(yaml.safe_load(TINY.read_text())), changes)
    pipeline.path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return Pipeline(pipeline.path)


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
        "data.source": raw["data"]["source"],
        "evaluate.detections_per_image": raw["evaluate"]["detections_per_image"],
        "evaluate.operating_score": raw["evaluate"]["operating_score"],
        "experiments.focal-g2.0": raw["experiments"]["focal-g2.0"],
    }


def test_every_detector_has_a_census(tiny: Pipeline) -> None:
    steps = list(changed(tiny, {}).steps())
    assert [step.name for step in steps if step.rule == "census"] == ["retinanet", "faster_rcnn"]
    outputs = {step.name: {path.name for path in step.outputs} for step in steps if step.rule == "census"}
    assert outputs["faster_rcnn"] == {"census-faster_rcnn.json", "structure-faster_rcnn.json"}


def test_a_step_depends_on_its_own_detector_and_methods(tiny: Pipeline) -> None:
    before = changed(tiny, {})
    rpn, roi = (before.study.experiments["two-stage"].methods[stage] | {"box_beta": 0.5} for stage in ("rpn", "roi"))
    changes = {
        "faster_rcnn": {
            "detectors": {
                "faster_rcnn": before.study.model_dump(mode="json")["detectors"]["faster_rcnn"] | {"short_side": 48}
            }
        },
        "rpn": {"experiments": {"two-stage": {"methods": {"rpn": rpn}}}},
        "roi": {"experiments": {"two-stage": {"methods": {"roi": roi}}}},
    }
    for change in changes.values():
        after = changed(tiny, change)
        for rule in ("train", "detect", "inspect", "funnel"):
            assert before.settings(rule, "two-stage") != after.settings(rule, "two-stage"), rule
            assert before.settings(rule, "ce") == after.settings(rule, "ce"), rule
        assert before.settings("census", "faster_rcnn") != after.settings("census", "faster_rcnn")
        assert before.settings("census", "retinanet") == after.settings("census", "retinanet")


def test_another_detector_of_equal_settings_is_another_setting(tiny: Pipeline) -> None:
    """Also for DVC, which reads the values at the keys that the pipeline file lists."""
    second = changed(tiny, {}).study.model_dump(mode="json")["detectors"]["retinanet"]
    before = changed(tiny, {"detectors": {"second": second}, "experiments": {"focal-g2.0": {"detector": "second"}}})
    assert ("experiments", "focal-g2.0", "detector") in before.keys("train", "focal-g2.0")
    after = changed(tiny, {"detectors": {"second": second}, "experiments": {"ce": {"detector": "second"}}})
    for rule in ("train", "detect", "evaluate", "loss_samples", "inspect"):
        for name in ("ce", "focal-g2.0"):
            assert before.settings(rule, name) != after.settings(rule, name), rule


def test_a_step_depends_on_the_code_of_each_of_its_methods(tiny: Pipeline) -> None:
    pipeline = changed(tiny, {"experiments": {"two-stage": {"methods": {"roi": FOCAL}}}})
    expected = {
        ("train", "ce"): {"cross_entropy"},
        ("train", "focal-g2.0"): {"focal"},
        ("train", "two-stage"): {"cross_entropy", "focal"},
        ("census", "retinanet"): {"cross_entropy"},
        ("census", "faster_rcnn"): {"cross_entropy", "focal"},
        ("evaluate", "two-stage"): set(),
    }
    for (rule, name), methods in expected.items():
        files = {path.stem for path in pipeline.code(rule, name) if path.parent.name == "methods"}
        assert {stem for stem in files if not stem.startswith("_")} == methods, (rule, name)


def test_an_experiment_may_have_the_name_of_a_detector(tiny: Pipeline) -> None:
    """Even that of another one."""
    experiment = changed(tiny, {}).study.model_dump(mode="json")["experiments"]["two-stage"]
    pipeline = changed(tiny, {"experiments": {"retinanet": experiment | {"label": "named so"}}})
    assert ("detectors", "retinanet") in pipeline.keys("census", "retinanet")
    assert ("experiments", "ce", "methods") in pipeline.keys("census", "retinanet")
    assert ("detectors", "faster_rcnn") in pipeline.keys("train", "retinanet")
    assert {path.stem for path in pipeline.code("census", "retinanet")} >= {"census", "cross_entropy"}


HEIR = Path("config/heir.yaml")


def heir(**changes: Any) -> Pipeline:
    """A study beside the tiny one whose base that is."""
    values = merged({"base": "tiny", "data": {"folder": "data/heir"}}, changes)
    HEIR.write_text(yaml.safe_dump(values, sort_keys=False))
    return Pipeline(HEIR)


def renamed(value: Any) -> Any:
    """What a plan of the tiny study would be called in that of its heir."""
    text = json.dumps(value, default=str)
    for old, new in (("data/demo", "data/heir"), ("config/tiny.yaml", "config/heir.yaml"), ("/tiny", "/heir")):
        text = text.replace(old, new)
    return json.loads(text)


def test_an_heir_that_changes_nothing_has_the_plan_of_its_base(tiny: Pipeline) -> None:
    """But for its name and folders, and for where DVC reads the same values."""
    plain = "pipelines/heir/study.yaml"
    stages = heir().stages()["stages"]
    resolving = stages.pop("study")
    expected = renamed(tiny.stages()["stages"])
    for stage in expected.values():
        stage["params"] = [{plain: keys} for listed in stage["params"] for keys in listed.values()]
    assert stages == expected
    assert resolving["outs"] == [{plain: {"cache": False}}]
    assert resolving["deps"][:2] == ["config/heir.yaml", "config/tiny.yaml"]
    for step in tiny.steps():
        assert json.loads(heir().settings(step.rule, step.name)) == renamed(
            json.loads(tiny.settings(step.rule, step.name))
        )


def test_the_values_of_an_heir_are_written_beside_its_pipeline_file(tiny: Pipeline) -> None:
    """There DVC finds each of the values that Snakemake compares."""
    pipeline = heir(train={"steps": 9})
    assert write(HEIR) == Path("pipelines/heir/dvc.yaml")
    values = YAML(typ="safe").load(pipeline.plain.read_text())
    assert values == resolve(HEIR).values
    for step in pipeline.steps():
        for key in pipeline.keys(step.rule, step.name):
            if key[0] in pipeline.study.model_fields_set:
                found = json.loads(pipeline.settings(step.rule, step.name))[".".join(key)]
                assert holds(found, reduce(getitem, key, values)), key


def holds(found: Any, written: Any) -> bool:
    """Whether all that is written is found; more may be, by default."""
    if isinstance(written, dict):
        return all(holds(found[key], value) for key, value in written.items())
    return bool(found == written)


def test_a_change_of_the_base_concerns_its_heirs_but_for_what_they_say_themselves(tiny: Pipeline) -> None:
    before = heir(experiments={"ce": {"label": "mine"}})
    raw = yaml.safe_load(tiny.path.read_text())
    changes = {"ce": {"label": "theirs"}, "focal-g2.0": {"methods": {"dense": FOCAL | {"gamma": 5.0}}}}
    tiny.path.write_text(yaml.safe_dump(merged(raw, {"experiments": changes}), sort_keys=False))
    after = Pipeline(HEIR)
    assert before.stages() == after.stages()
    changed_steps = {
        (step.rule, step.name)
        for step in before.steps()
        if before.settings(step.rule, step.name) != after.settings(step.rule, step.name)
    }
    rules = {"train", "detect", "evaluate", "errors", "inspect", "loss_samples"}
    assert changed_steps == {(step.rule, step.name) for step in before.steps() if step.rule in rules} - {
        (rule, "ce") for rule in rules
    }


@pytest.mark.parametrize("own", [True, False])
def test_a_password_is_refused_in_the_file_that_has_it(tiny: Pipeline, own: bool) -> None:
    raw = yaml.safe_load(tiny.path.read_text())
    data = {"source": "coco2017", "proxy": "http://user:word@proxy"}
    tiny.path.write_text(yaml.safe_dump(raw | {"data": data | {"folder": "data/demo"}}, sort_keys=False))
    with refused(r"^config/(heir|tiny).yaml: data.proxy holds a user's name or password") as error:
        heir(data={"proxy": "http://user:word@another"} if own else {})
    assert str(error.value).startswith("config/heir.yaml" if own else "config/tiny.yaml")


def test_a_study_beside_the_demo_has_its_own_file(tiny: Pipeline) -> None:
    file = write(tiny.path)
    assert file == Path("pipelines/tiny/dvc.yaml")
    stages = yaml.safe_load(file.read_text())["stages"]
    assert len(stages) == len(list(tiny.steps()))
    for stage in stages.values():
        assert stage["wdir"] == "../.."
        assert "--configfile config/tiny.yaml" in stage["cmd"]

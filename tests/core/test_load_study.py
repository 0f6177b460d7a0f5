"""A study's file: what is read, and what is refused with file, key, value and the nearest names."""

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from imbdet.config import Cosine, MultiStep, load_study
from imbdet.errors import UserError
from imbdet.training.optimizer import rate_factor

TINY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"


def load_text(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_study(path)


def load_changed(tmp_path, change):
    raw = yaml.safe_load(TINY.read_text())
    change(raw)
    return load_text(tmp_path, yaml.safe_dump(raw, sort_keys=False))


def set_at(path, value):
    def change(raw):
        *parents, last = path
        for key in parents:
            raw = raw[key]
        raw[last] = value

    return change


def without(path):
    def change(raw):
        *parents, last = path
        for key in parents:
            raw = raw[key]
        del raw[last]

    return change


def test_a_study_has_its_files_name_and_values(tmp_path):
    study = load_changed(tmp_path, set_at(["train", "steps"], 77))
    assert (study.name, study.train.steps) == ("mine", 77)
    assert list(study.experiments) == list(load_study(TINY).experiments)
    assert study.experiment("ce").label == "CE"


UNKNOWN = {
    ("sede",): "seed",
    ("train", "step"): "steps",
    ("data", "image_sizes"): "image_size",
    ("train", "optimizer", "momentun"): "momentum",
    ("train", "schedule", "warmup_step"): "warmup_steps",
    ("detector", "assigner", "foreground_ious"): "foreground_iou",
    ("detector", "anchors", "ratio"): "ratios",
    ("experiments", "ce", "labels"): "label",
    ("report", "gama"): "gamma",
}


@pytest.mark.parametrize(("path", "meant"), UNKNOWN.items(), ids=map(".".join, UNKNOWN))
def test_unknown_keys_are_refused_with_the_nearest(tmp_path, path, meant):
    with pytest.raises(UserError) as error:
        load_changed(tmp_path, set_at(path, 1))
    assert "mine.yaml: unknown key" in str(error.value)
    assert path[-1] in str(error.value)
    assert f"did you mean {meant!r}" in str(error.value)


REFUSED = {
    "wrong type": (set_at(["train", "steps"], "many"), r"mine.yaml: train.steps is 'many': .*integer"),
    "out of range": (set_at(["evaluate", "nms_iou"], 1.5), r"mine.yaml: evaluate.nms_iou is 1.5: .*less than or equal"),
    "infinite": (set_at(["train", "optimizer", "lr"], float("inf")), r"train.optimizer.*lr is inf: .*finite number"),
    "missing": (without(["seed"]), r"mine.yaml: key 'seed' is missing"),
    "missing deeper": (without(["detector", "backbone"]), r"mine.yaml: key 'detector.backbone' is missing"),
    "no experiments": (set_at(["experiments"], {}), r"mine.yaml: experiments"),
    "unknown source": (set_at(["data", "source"], "shape"), r"mine.yaml: data: .*'shapes'"),
    "unknown optimizer": (set_at(["train", "optimizer", "name"], "adam"), r"mine.yaml: train.optimizer: .*'adamw'"),
    "unknown method": (
        set_at(["experiments", "ce", "method", "name"], "cross_entrpy"),
        r"mine.yaml: experiments.ce: method name 'cross_entrpy' does not exist; did you mean 'cross_entropy'",
    ),
    "no such experiment": (
        set_at(["report", "precision_recall"], ["ce", "focal-g2"]),
        r"mine.yaml: report.precision_recall names 'focal-g2', not an experiment; did you mean 'focal-g2.0'",
    ),
    "unsafe name": (set_at(["experiments", "a/b"], {"label": "x", "method": {"name": "focal"}}), r"a/b"),
    "reversed range": (set_at(["data", "objects"], [3, 1]), r"objects is \[smallest, largest\].*got \[3, 1\]"),
    "uneven anchors": (
        set_at(["detector", "anchors", "sizes"], [[8, 12], [16], [32, 48], [64, 96], [128, 192]]),
        r"detector.anchors: every level needs the same number of sizes",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_refused_by_key_and_value(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load_changed(tmp_path, change)


def test_every_mistake_is_reported_at_once(tmp_path):
    def change(raw):
        raw["train"]["steps"] = 0
        raw["sed"] = raw.pop("seed")

    with pytest.raises(UserError) as error:
        load_changed(tmp_path, change)
    assert len(str(error.value).splitlines()) == 3
    assert all(word in str(error.value) for word in ("'sed'", "'seed' is missing", "train.steps is 0"))


TEXTS = {
    "a key twice": ("seed: 1\nseed: 2\n", r"mine.yaml is not valid YAML: key 'seed' stands twice.*line 1"),
    "a deep key twice": ("train:\n  steps: 1\n  steps: 2\n", r"'steps' stands twice.*line 2"),
    "not YAML": ("seed: [1, 2\n", r"mine.yaml is not valid YAML"),
    "a list": ("- seed\n", r"mine.yaml must hold a mapping of keys to values, got list"),
    "nothing": ("", r"mine.yaml must hold a mapping of keys to values, got NoneType"),
}


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_files_that_are_no_studies_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_text(tmp_path, text)


def test_a_missing_study_names_the_nearest(tmp_path):
    (tmp_path / "demo.yaml").write_text("")
    with pytest.raises(UserError, match=r"no study .*dmo.yaml; did you mean '.*demo.yaml'"):
        load_study(tmp_path / "dmo.yaml")


def test_an_unknown_experiment_names_the_nearest():
    with pytest.raises(UserError, match=r"study tiny: no experiment 'focal-g2'; did you mean 'focal-g2.0'"):
        load_study(TINY).experiment("focal-g2")


def test_the_rate_warms_up_and_falls_by_a_factor_at_each_milestone():
    schedule = MultiStep(name="multistep", warmup_steps=4, milestones=(0.5, 0.8), factor=0.1)
    factors = [rate_factor(step, 100, schedule) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:50] == pytest.approx([1.0] * 45)
    assert factors[50:80] == pytest.approx([0.1] * 30)
    assert factors[80:] == pytest.approx([0.01] * 20)


def test_the_rate_warms_up_and_falls_as_half_a_cosine():
    schedule = Cosine(name="cosine", warmup_steps=9)
    factors = [rate_factor(step, 100, schedule) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[50] == pytest.approx(0.5)
    assert factors[25] + factors[75] == pytest.approx(1)
    assert factors[100] == pytest.approx(0)
    assert all(a > b for a, b in pairwise(factors[9:]))


def test_without_warm_up_the_first_step_has_the_whole_rate():
    assert rate_factor(0, 10, Cosine(name="cosine", warmup_steps=0)) == 1
    assert rate_factor(0, 10, MultiStep(name="multistep", warmup_steps=0, milestones=(), factor=0.1)) == 1

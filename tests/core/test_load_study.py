"""A study's file: what is read, and what is refused with file, key, value and the nearest names."""

from itertools import pairwise

import pytest
from changed_study import REFUSED_WELL, TINY, load_changed, load_text, set_at, without
from promises import refused
from studies import DETECTOR, ROI, RPN

from imbdet.config import STAGES
from imbdet.errors import UserError
from imbdet.settings import Cosine, FasterRCNN, MultiStep, RetinaNet, Train
from imbdet.study_file import load_study
from imbdet.training.optimizer import rate_factor


def test_a_study_has_its_files_name_and_values(tmp_path):
    study = load_changed(tmp_path, set_at(["train", "steps"], 77))
    assert (study.name, study.train.steps) == ("mine", 77)
    assert list(study.experiments) == [*load_study(TINY).experiments, "two-stage"]
    assert study.experiment("ce").label == "CE"


def test_an_experiment_has_its_detector_and_the_methods_of_its_stages(tmp_path):
    study = load_changed(tmp_path, lambda raw: None)
    assert study.detector("ce") is study.detectors["retinanet"]
    assert study.detector("two-stage") is study.detectors["faster_rcnn"]
    assert isinstance(study.detector("ce"), RetinaNet)
    assert isinstance(study.detector("two-stage"), FasterRCNN)
    assert study.experiment("two-stage").methods == {"rpn": RPN, "roi": ROI}
    assert list(study.experiment("two-stage").methods) == ["rpn", "roi"]


def test_an_experiments_method_is_that_of_its_last_stage(tmp_path):
    study = load_changed(tmp_path, lambda raw: None)
    assert study.experiment("ce").method == study.experiment("ce").methods["dense"]
    assert study.experiment("two-stage").method == ROI


def test_a_detector_may_be_trained_in_its_own_way(tmp_path):
    """Values of ``train`` that it has instead; a section such as the optimizer is replaced as a whole."""
    own = {"steps": 5, "optimizer": {"name": "adamw", "lr": 0.5, "weight_decay": 0.0}}
    study = load_changed(tmp_path, set_at(["detectors", "faster_rcnn", "train"], own))
    assert study.training("ce") == study.train
    assert study.training("two-stage") == Train.model_validate(study.train.model_dump() | own)
    assert (study.training("two-stage").steps, study.train.steps) == (5, 8)


UNKNOWN = {
    ("seed",): "seeds",
    ("train", "step"): "steps",
    ("data", "image_sizes"): "image_size",
    ("train", "optimizer", "momentun"): "momentum",
    ("train", "schedule", "warmup_step"): "warmup_steps",
    ("detector",): "detectors",
    ("detectors", "retinanet", "assigner", "foreground_ious"): "foreground_iou",
    ("detectors", "retinanet", "crowds"): "crowd",
    ("detectors", "retinanet", "anchors", "ratio"): "ratios",
    ("detectors", "faster_rcnn", "rpn", "sample"): "sampled",
    ("detectors", "faster_rcnn", "rpn", "training", "keep"): "kept",
    ("detectors", "faster_rcnn", "roi", "pool_sizes"): "pool_size",
    ("experiments", "ce", "labels"): "label",
    ("experiments", "ce", "method"): "methods",
    ("report", "gama"): "gamma",
}


@REFUSED_WELL
@pytest.mark.parametrize(("path", "meant"), UNKNOWN.items(), ids=map(".".join, UNKNOWN))
def test_unknown_keys_are_refused_with_the_nearest(tmp_path, path, meant):
    with refused(r"mine\.yaml: unknown key '[\w.]+'; did you mean '\w+'") as error:
        load_changed(tmp_path, set_at(path, 1))
    assert f"unknown key '{'.'.join(path)}'; did you mean {meant!r}" in str(error.value)


REFUSED = {
    "wrong type": (set_at(["train", "steps"], "many"), r"mine.yaml: train.steps is 'many': .*integer"),
    "out of range": (set_at(["evaluate", "nms_iou"], 1.5), r"mine.yaml: evaluate.nms_iou is 1.5: .*less than or equal"),
    "infinite": (set_at(["train", "optimizer", "lr"], float("inf")), r"train.optimizer.*lr is inf: .*finite number"),
    "missing": (without(["seeds"]), r"mine.yaml: key 'seeds' is missing"),
    "missing deeper": (
        without(["detectors", "retinanet", "backbone"]),
        r"mine.yaml: key 'detectors.retinanet.backbone' is missing",
    ),
    "no experiments": (set_at(["experiments"], {}), r"mine.yaml: experiments"),
    "no detectors": (set_at(["detectors"], {}), r"mine.yaml: detectors: .*at least 1"),
    "unknown source": (set_at(["data", "source"], "shape"), r"mine.yaml: data: .*'shapes'"),
    "unknown optimizer": (set_at(["train", "optimizer", "name"], "adam"), r"mine.yaml: train.optimizer: .*'adamw'"),
    "unknown kind of detector": (
        set_at(["detectors", "retinanet", "name"], "retina"),
        r"mine.yaml: detectors.retinanet: .*'retinanet', 'faster_rcnn'",
    ),
    "unknown detector": (
        set_at(["experiments", "ce", "detector"], "retinane"),
        r"experiments.ce.detector names 'retinane'; did you mean 'retinanet'\? Known: faster_rcnn, retinanet$",
    ),
    "unused detector": (
        set_at(["detectors", "second"], DETECTOR),
        r"mine.yaml: detectors.second is the detector of no experiment; remove it or use it$",
    ),
    "unknown value of a detector's training": (
        set_at(["detectors", "faster_rcnn", "train"], {"step": 5}),
        r"mine.yaml: detectors.faster_rcnn.train, which replaces values of train: step: .*not permitted. "
        r"Keys of train: steps, batch_size, ",
    ),
    "value out of range in a detector's training": (
        set_at(["detectors", "retinanet", "train"], {"steps": 0, "flip": 2}),
        r"detectors.retinanet.train, .*: steps: .*greater than or equal to 1; flip: .*less than or equal to 1. Keys",
    ),
    "unknown method": (
        set_at(["experiments", "ce", "methods", "dense", "name"], "cross_entrpy"),
        r"mine.yaml: experiments.ce: methods.dense: name 'cross_entrpy' does not exist; did you mean 'cross_entropy'",
    ),
    "unknown method of a second stage": (
        set_at(["experiments", "two-stage", "methods", "roi", "name"], "focl"),
        r"mine.yaml: experiments.two-stage: methods.roi: name 'focl' does not exist; did you mean 'focal'",
    ),
    "no method": (
        without(["experiments", "ce", "methods", "dense", "name"]),
        r"mine.yaml: experiments.ce: methods.dense: name None does not exist; .*Known: cross_entropy, ",
    ),
    "unknown stage": (
        set_at(["experiments", "ce", "methods", "denes"], RPN),
        r"mine.yaml: experiments.ce.methods.denes.*'denes': .*'dense', 'rpn' or 'roi'",
    ),
    "stages of another detector": (
        set_at(["experiments", "ce", "methods"], {"rpn": RPN, "roi": ROI}),
        r"mine.yaml: experiments.ce.methods has the stages rpn, roi; retinanet has dense, in this order$",
    ),
    "a stage without a method": (
        without(["experiments", "two-stage", "methods", "rpn"]),
        r"mine.yaml: experiments.two-stage.methods has the stages roi; faster_rcnn has rpn, roi, in this order$",
    ),
    "stages in another order": (
        set_at(["experiments", "two-stage", "methods"], {"roi": ROI, "rpn": RPN}),
        r"mine.yaml: experiments.two-stage.methods has the stages roi, rpn; faster_rcnn has rpn, roi, in this order$",
    ),
    "no stages": (
        set_at(["experiments", "ce", "methods"], {}),
        r"mine.yaml: experiments.ce.methods has the stages none; retinanet has dense, in this order$",
    ),
    "no such experiment": (
        set_at(["report", "precision_recall"], ["ce", "focal-g2"]),
        r"mine.yaml: report.precision_recall names 'focal-g2', not an experiment; did you mean 'focal-g2.0'",
    ),
    "unsafe name": (
        set_at(
            ["experiments", "a/b"], {"label": "x", "detector": "retinanet", "methods": {"dense": {"name": "focal"}}}
        ),
        r"mine.yaml: experiments.a/b.*is 'a/b': .*pattern",
    ),
    **{
        f"label {label!r}": (
            set_at(["experiments", "ce", "label"], label),
            r"mine.yaml: experiments.ce.label is .*: expected",
        )
        for label in ("", "  ", "_hidden", "two\nlines", "bell \x07", "a\u2028b", "\u200b", " \u2060\u00a0")
    },
    **{
        f"label that is {label}": (
            set_at(["experiments", "ce", "label"], label),
            rf"experiments.ce.label is {label}: .*valid string; write it in quotes, as \"{shown}\"$",
        )
        for label, shown in {2: "2", 0.5: "0.5", True: "true"}.items()
    },
    "label that is a list": (set_at(["experiments", "ce", "label"], ["a"]), r"label is \['a'\]: .*valid string$"),
    "description that is a number": (set_at(["description"], 2026), r"description is 2026: .*, as \"2026\"$"),
    "two experiments with one label": (
        set_at(["experiments", "two-stage", "label"], "CE"),
        r"mine.yaml: experiments.ce and experiments.two-stage both have the label 'CE', .*; give each its own$",
    ),
    **{
        f"labels that look alike, {label!a}": (
            set_at(["experiments", "two-stage", "label"], label),
            r"experiments.ce and experiments.two-stage both have the label 'CE'",
        )
        for label in (" CE ", "C\u200bE", "CE\ufeff")
    },
    **{
        f"experiment called {name}": (
            lambda raw, name=name: raw["experiments"].update({name: raw["experiments"]["ce"] | {"label": "another"}}),
            f"mine.yaml: experiments.{name}: figures have '{name}' for something else; choose another name",
        )
        for name in ("truth", "pixels")
    },
    "unsafe name of a detector": (set_at(["detectors", "a/b"], DETECTOR), r"mine.yaml: detectors.a/b.*is 'a/b'"),
    "reversed range": (set_at(["data", "objects"], [3, 1]), r"objects is \[smallest, largest\].*got \[3, 1\]"),
    "uneven anchors": (
        set_at(["detectors", "retinanet", "anchors", "sizes"], [[8, 12], [16], [32, 48], [64, 96], [128, 192]]),
        r"mine.yaml: detectors.retinanet.anchors: every level needs the same number of sizes",
    ),
    "too few anchors": (
        set_at(["detectors", "retinanet", "anchors", "sizes"], [[8], [16], [32]]),
        r"detectors.retinanet: the pyramid has the strides 8, 16, 32, 64, 128: anchors.sizes needs 5 lists, got 3$",
    ),
    "too many anchors": (
        set_at(["detectors", "faster_rcnn", "levels"], [3, 6]),
        r"detectors.faster_rcnn: the pyramid has the strides 8, 16, 32, 64: anchors.sizes needs 4 lists, got 5$",
    ),
}


@REFUSED_WELL
@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_refused_by_key_and_value(tmp_path, change, message):
    with refused(message):
        load_changed(tmp_path, change)


def test_every_mistake_is_reported_at_once(tmp_path):
    def change(raw):
        raw["train"]["steps"] = 0
        raw["sed"] = raw.pop("seeds")

    with pytest.raises(UserError) as error:
        load_changed(tmp_path, change)
    assert len(str(error.value).splitlines()) == 3
    assert all(word in str(error.value) for word in ("'sed'", "'seeds' is missing", "train.steps is 0"))


def test_every_kind_of_detector_has_stages():
    kinds = {cls.model_fields["name"].annotation.__args__[0] for cls in (RetinaNet, FasterRCNN)}
    assert STAGES.keys() == kinds


TEXTS = {
    "a key twice": ("seed: 1\nseed: 2\n", r"mine.yaml is not valid YAML: key 'seed' stands twice.*line 2"),
    "a number twice": ("1: 2\n1.0: 3\n", r"key '1.0' stands twice.*line 2"),
    "a number of 5,000 digits": (f"seed: {'9' * 5000}\n", r"mine.yaml is not valid YAML: .*digits"),
    "a tag that does not fit": ("seed: !!bool maybe\n", r"mine.yaml is not valid YAML: 'maybe'"),
    "a deep key twice": ("train:\n  steps: 1\n  steps: 2\n", r"'steps' stands twice.*line 3"),
    "a tab": ("train:\n\tsteps: 1\n", r"mine.yaml is not valid YAML: .*'\\t' that cannot start any token.*line 2"),
    "a key that is a list": ("[1, 2]: 3\n", r"mine.yaml is not valid YAML: .*unhashable key"),
    "a number as key": ("1: 2\n", r"mine.yaml: 1 is 1: Keys should be strings"),
    "a date as seed": ("seeds: [2020-01-01]\n", r"mine.yaml: seeds.0 is '2020-01-01': .*valid integer"),
    "two documents": ("seed: 1\n---\nseed: 2\n", r"mine.yaml is not valid YAML: .*single document"),
    "not YAML": ("seed: [1, 2\n", r"mine.yaml is not valid YAML"),
    "a list": ("- seed\n", r"mine.yaml must hold a mapping of keys to values, got list"),
    "nothing": ("", r"mine.yaml must hold a mapping of keys to values, got NoneType"),
}


@REFUSED_WELL
@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_files_that_are_no_studies_are_refused(tmp_path, text, message):
    with refused(f"(?s){message}"):
        load_text(tmp_path, text)


@REFUSED_WELL
def test_a_missing_study_names_the_nearest(tmp_path):
    (tmp_path / "demo.yaml").write_text("")
    with refused(r"no study .*dmo.yaml; did you mean '.*demo.yaml'"):
        load_study(tmp_path / "dmo.yaml")


@REFUSED_WELL
def test_an_unknown_experiment_names_the_nearest():
    with refused(r"study tiny: no experiment 'focal-g2'; did you mean 'focal-g2.0'"):
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

"""A method from a study's mapping: what is built, and what is refused with which words."""

import subprocess
import sys
from pathlib import Path

import pytest
from studies import ROI, with_two_stages

from imbdet.config import Study
from imbdet.data.facts import Facts
from imbdet.detectors import build_detector, check_experiments
from imbdet.detectors.faster_rcnn import FasterRCNN
from imbdet.detectors.retinanet import RetinaNet
from imbdet.errors import UserError
from imbdet.heads import HeadSpec
from imbdet.losses import ClassificationLoss
from imbdet.losses import Focal as FocalLoss
from imbdet.losses import FocalStar as FocalStarLoss
from imbdet.methods import build_method
from imbdet.methods.focal import Focal
from imbdet.normalizers import EMA, Batch, Sampled
from imbdet.study_file import load_study

TINY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"
FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "ema", "box_beta": 0.11}


def test_the_class_of_the_named_file_with_the_given_values():
    method = build_method(FOCAL)
    assert type(method) is Focal
    assert method.loss == ClassificationLoss("sigmoid", FocalLoss(2.0), 0.25)
    assert (method.head, method.box_beta) == (HeadSpec("sigmoid", 0.01), 0.11)
    assert isinstance(method.normalizer, EMA)
    assert build_method(FOCAL | {"alpha": None, "gamma": 2}).loss.alpha is None


REFUSED = {
    "unknown method": ({"name": "focall"}, r"method name 'focall' does not exist; did you mean 'focal'"),
    "no method": ({"name": None}, r"method name None does not exist; .*Known: cross_entropy, .*focal, focal_star"),
    "unknown parameter": ({"gama": 2.0}, r"method focal: unknown parameter 'gama'; did you mean 'gamma'"),
    "wrong type": ({"gamma": "2"}, r"method focal: gamma: .*number, got '2'"),
    "truth value": ({"gamma": True}, r"method focal: gamma: .*number, got True"),
    "out of range": ({"gamma": -1.0}, r"method focal: gamma: .*greater than or equal to 0, got -1.0"),
    "alpha above 1": ({"alpha": 1.5}, r"method focal: alpha: .*less than or equal to 1, got 1.5"),
    "certain prior": ({"prior_prob": 1.0}, r"method focal: prior_prob: .*less than 1, got 1.0"),
    "not a number": ({"gamma": float("nan")}, r"method focal: gamma: .*got nan"),
    "infinite": ({"gamma": float("inf")}, r"method focal: gamma: .*got inf"),
    "several": ({"gamma": -1.0, "alpha": "x"}, r"alpha: .*got 'x'; gamma: .*got -1.0"),
    "unknown normalizer": (
        {"normalizer": "mean"},
        r"normalizer: .*'per_image', 'batch', 'ema' or 'sampled', got 'mean'",
    ),
    "frequency where there is none": ({"frequency": [0.5]}, r"method focal: unknown parameter 'frequency'"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        build_method(FOCAL | change)


@pytest.mark.parametrize("spec", ["focal", Focal, None, [("name", "focal")], FOCAL | {1: 2.0}])
def test_what_is_no_mapping_of_parameters_is_refused(spec):
    with pytest.raises(UserError, match=r"a method is a mapping such as \{'name': 'focal', .*, got "):
        build_method(spec)


@pytest.mark.parametrize("key", sorted(FOCAL.keys() - {"name"}))
def test_every_parameter_must_be_stated(key):
    with pytest.raises(UserError, match=rf"method focal: parameter '{key}' is missing"):
        build_method({k: v for k, v in FOCAL.items() if k != key})


def test_fl_star_refuses_gamma_0():
    spec = FOCAL | {"name": "focal_star", "beta": 1.0}
    assert build_method(spec).loss.margin == FocalStarLoss(2.0, 1.0)
    with pytest.raises(UserError, match=r"method focal_star: beta: .*finite number, got nan"):
        build_method(spec | {"beta": float("nan")})
    with pytest.raises(UserError, match=r"method focal_star: gamma: .*greater than 0, got 0.0"):
        build_method(spec | {"gamma": 0.0})


def test_softmax_has_neither_alpha_nor_a_prior():
    spec = ROI | {"box_beta": 1.0}
    assert build_method(spec).head == HeadSpec("softmax", None)
    with pytest.raises(UserError, match=r"^method cross_entropy: a softmax head has plain .*, got alpha 0.5, CrossEn"):
        build_method(spec | {"alpha": 0.5})
    with pytest.raises(UserError, match=r"^method cross_entropy: prior_prob is for sigmoid heads, .*: got 0.01$"):
        build_method(spec | {"prior_prob": 0.01})
    with pytest.raises(UserError, match=r"method cross_entropy: activation: .*'sigmoid' or 'softmax', got 'tanh'"):
        build_method(spec | {"activation": "tanh"})


EQUALIZATION = {"name": "equalization", "threshold": 0.1, "tail_ratio": None, "prior_prob": None, "box_beta": 0.0}
EQUALIZATION |= {"score_threshold": None, "normalizer": "sampled"}


def test_the_frequencies_of_the_classes_come_from_the_data_unless_they_are_stated():
    assert build_method(EQUALIZATION, (0.5, 0.01)).tail.tolist() == [False, True]
    stated = EQUALIZATION | {"frequency": [0.02, 0.6, 0.03]}
    assert build_method(stated, (0.5, 0.01)).tail.tolist() == build_method(stated).tail.tolist() == [True, False, True]
    with pytest.raises(UserError, match="method equalization: parameter 'frequency' is missing"):
        build_method(EQUALIZATION)
    assert type(build_method(FOCAL, (0.5, 0.01))) is Focal  # not handed to a method without the parameter


SOFTMAX_EQUALIZATION = {"name": "equalization_softmax", "threshold": 0.1, "tail_ratio": None, "gamma": 0.9}
SOFTMAX_EQUALIZATION |= {"normalizer": "sampled", "box_beta": 0.0}


@pytest.mark.parametrize("spec", [EQUALIZATION, SOFTMAX_EQUALIZATION], ids=lambda spec: spec["name"])
def test_frequencies_without_an_order_or_of_no_class_are_refused(spec):
    name = spec["name"]
    for shares in ({0: 0.5, 1: 0.1}, {0.5, 0.1}):
        with pytest.raises(UserError, match=f"method {name}: frequency is a (dict|set), expected a list of K shares"):
            build_method(spec, shares)
    for empty in (spec | {"frequency": []}, spec):
        with pytest.raises(UserError, match=f"method {name}: frequency is empty; expected a share"):
            build_method(empty, ())


def with_method(experiment="ce", stage="dense", **change):
    """The tiny study, with a second detector, after a change of one method."""
    raw = with_two_stages(load_study(TINY).model_dump())
    raw["experiments"][experiment]["methods"][stage] |= change
    return Study.model_validate(raw)


def test_a_study_names_the_experiment_whose_method_is_wrong():
    check_experiments(with_method())
    with pytest.raises(
        UserError, match=r"^study tiny, experiment ce: method cross_entropy: unknown .*'alpah'; .*'alpha'"
    ):
        check_experiments(with_method(alpah=0.5))
    with pytest.raises(UserError, match=r"^study tiny, experiment two-stage: method cross_entropy: unknown .*'alpah'"):
        check_experiments(with_method("two-stage", "roi", alpah=0.5))


FACTS = Facts(3, (0.5, 0.01, 0.3))


def test_the_detector_of_an_experiment_has_its_methods_inside():
    study = with_method("two-stage", "roi", **ROI | {"normalizer": "batch"})
    one, two = (build_detector(study, name, FACTS) for name in ("ce", "two-stage"))
    assert (type(one), type(two)) == (RetinaNet, FasterRCNN)
    assert (one.num_classes, two.num_classes) == (3, 3)
    assert list(one.methods) == ["dense"]
    assert list(two.methods) == ["rpn", "roi"]
    assert (type(two.method("rpn").normalizer), type(two.method("roi").normalizer)) == (Sampled, Batch)
    assert {id(part) for part in two.modules()} >= {id(two.method("rpn")), id(two.method("roi"))}


def test_a_detector_hands_the_datas_frequencies_to_its_methods():
    raw = with_method().model_dump()
    raw["experiments"]["two-stage"]["methods"]["roi"] = EQUALIZATION
    model = build_detector(Study.model_validate(raw), "two-stage", FACTS)
    assert model.method("roi").tail.tolist() == [False, True, False]


@pytest.mark.parametrize(("experiment", "stage"), [("ce", "dense"), ("two-stage", "rpn"), ("two-stage", "roi")])
def test_a_method_for_another_stage_is_refused(monkeypatch, experiment, stage):
    others = {"dense", "rpn", "roi"} - {stage}
    monkeypatch.setattr("imbdet.methods.focal.Focal.stages", frozenset(others))
    raw = with_method().model_dump()
    raw["experiments"][experiment]["methods"][stage] = FOCAL
    study, known = Study.model_validate(raw), ", ".join(sorted(others))
    message = f"experiment {experiment}: method focal: Focal is defined for {known}, not for {stage}$"
    with pytest.raises(UserError, match="^" + message):
        build_detector(study, experiment, FACTS)
    with pytest.raises(UserError, match=message):
        check_experiments(study)


def test_softmax_is_refused_for_rpn():
    study = with_method("two-stage", "rpn", activation="softmax")
    message = r"experiment two-stage: method cross_entropy: RPN has one sigmoid column; CrossEntropy asks for softmax$"
    with pytest.raises(UserError, match="^" + message):
        build_detector(study, "two-stage", FACTS)
    with pytest.raises(UserError, match=message):
        check_experiments(study)


IMPORT_EACH = """
import importlib, sys
for part in sys.argv[1:]:
    importlib.import_module(f"imbdet.{part}")
    for name in [name for name in sys.modules if name.startswith("imbdet")]:
        del sys.modules[name]
"""


def test_each_module_can_be_imported_first():
    """The modules build on one another; none may need another to be imported before it."""
    parts = ("losses", "samples", "samplers", "assigners", "normalizers", "heads", "geometry", "methods", "data.facts")
    parts += ("data.batch", "data.loader", "detectors", "detectors.base", "detectors.proposals", "training.optimizer")
    subprocess.run([sys.executable, "-c", IMPORT_EACH, *parts], check=True)

"""A method from a study's mapping: what is built, and what is refused with which words."""

import subprocess
import sys
from pathlib import Path

import pytest

from imbdet.config import load_study
from imbdet.detectors import build_detector, check_experiments
from imbdet.errors import UserError
from imbdet.methods import build_method
from imbdet.methods.focal import Focal
from imbdet.normalizers import EMA

TINY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"
FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "ema", "box_beta": 0.11}


def test_the_class_of_the_named_file_with_the_given_values():
    method = build_method(FOCAL)
    assert type(method) is Focal
    assert (method.alpha, method.loss.gamma, method.head.prior_prob, method.box_beta) == (0.25, 2.0, 0.01, 0.11)
    assert isinstance(method.normalizer, EMA)
    assert build_method(FOCAL | {"alpha": None, "gamma": 2}).alpha is None


REFUSED = {
    "unknown method": ({"name": "focall"}, r"method name 'focall' does not exist; did you mean 'focal'"),
    "no method": ({"name": None}, r"method name None does not exist; .*Known: cross_entropy, focal, focal_star"),
    "unknown parameter": ({"gama": 2.0}, r"method focal: unknown parameter 'gama'; did you mean 'gamma'"),
    "wrong type": ({"gamma": "2"}, r"method focal: gamma: .*number, got '2'"),
    "truth value": ({"gamma": True}, r"method focal: gamma: .*number, got True"),
    "out of range": ({"gamma": -1.0}, r"method focal: gamma: .*greater than or equal to 0, got -1.0"),
    "alpha above 1": ({"alpha": 1.5}, r"method focal: alpha: .*less than or equal to 1, got 1.5"),
    "certain prior": ({"prior_prob": 1.0}, r"method focal: prior_prob: .*less than 1, got 1.0"),
    "not a number": ({"gamma": float("nan")}, r"method focal: gamma: .*got nan"),
    "infinite": ({"gamma": float("inf")}, r"method focal: gamma: .*got inf"),
    "several": ({"gamma": -1.0, "alpha": "x"}, r"alpha: .*got 'x'; gamma: .*got -1.0"),
    "unknown normalizer": ({"normalizer": "mean"}, r"normalizer: .*'per_image', 'batch' or 'ema', got 'mean'"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        build_method(FOCAL | change)


@pytest.mark.parametrize("key", sorted(FOCAL.keys() - {"name"}))
def test_every_parameter_must_be_stated(key):
    with pytest.raises(UserError, match=rf"method focal: parameter '{key}' is missing"):
        build_method({k: v for k, v in FOCAL.items() if k != key})


def test_fl_star_refuses_gamma_0():
    spec = FOCAL | {"name": "focal_star", "beta": 1.0}
    assert build_method(spec).loss.beta == 1.0
    with pytest.raises(UserError, match=r"method focal_star: beta: .*finite number, got nan"):
        build_method(spec | {"beta": float("nan")})
    with pytest.raises(UserError, match=r"method focal_star: gamma: .*greater than 0, got 0.0"):
        build_method(spec | {"gamma": 0.0})


def with_method(**change):
    study = load_study(TINY)
    raw = study.model_dump()
    name = next(iter(study.experiments))
    raw["experiments"][name]["method"] |= change
    return type(study).model_validate(raw), name


def test_a_study_names_the_experiment_whose_method_is_wrong():
    study, name = with_method(alpah=0.5)
    with pytest.raises(UserError, match=rf"study tiny, experiment {name}: method cross_entropy: unknown .*'alpha'"):
        check_experiments(study)


def test_a_method_for_another_stage_is_refused(monkeypatch):
    study, name = with_method()
    monkeypatch.setattr("imbdet.methods.cross_entropy.CrossEntropy.stages", frozenset({"roi", "rpn"}))
    with pytest.raises(UserError, match=rf"experiment {name}: .* stages roi, rpn; retinanet has the stage dense"):
        build_detector(study, name, num_classes=3)


IMPORT_EACH = """
import importlib, sys
for part in sys.argv[1:]:
    importlib.import_module(f"imbdet.{part}")
    for name in [name for name in sys.modules if name.startswith("imbdet")]:
        del sys.modules[name]
"""


def test_each_module_can_be_imported_first():
    """The modules build on one another; none may need another to be imported before it."""
    parts = ("losses", "samples", "assigners", "normalizers", "heads", "methods", "detectors", "detectors.boxes")
    subprocess.run([sys.executable, "-c", IMPORT_EACH, *parts], check=True)

"""Parameters outside their domain are refused by every public function, with the value and what is expected."""

import math
import re

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import imbdet
from imbdet.assigners import MaxIoUAssigner
from imbdet.errors import UserError
from imbdet.geometry import BoxCoder
from imbdet.heads import HeadSpec
from imbdet.losses import ClassificationLoss, CrossEntropy, Focal, FocalStar, smooth_l1, sum_over_classes
from imbdet.methods import build_method
from imbdet.methods.focal import Focal as FocalMethod
from imbdet.samplers import RandomSampler

X, LABEL, BOXES = torch.zeros(2, 3), torch.tensor([0, 3]), torch.zeros(2, 4)
NO_NUMBERS = [math.nan, math.inf, -math.inf, "0.5", True, torch.tensor(0.5), [0.5], 10**400]
NO_SHARES = [-1, -0.01, 1.01, 25, *NO_NUMBERS]
NEGATIVE = [-1, -1e-9, None, *NO_NUMBERS]
NOT_POSITIVE = [0, *NEGATIVE]
FOCAL = {"alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "batch", "box_beta": 0.11}
# What is called with a value, the parameter's name and the values that mean nothing.
REFUSED = {
    "focal loss, alpha": (lambda v: imbdet.sigmoid_focal_loss(X, X, v, 2.0), "alpha", NO_SHARES),
    "focal loss, gamma": (lambda v: imbdet.sigmoid_focal_loss(X, X, None, v), "gamma", NEGATIVE),
    "FL*, alpha": (lambda v: imbdet.sigmoid_focal_star_loss(X, X, v, 2.0, 1.0), "alpha", NO_SHARES),
    "FL*, gamma": (lambda v: imbdet.sigmoid_focal_star_loss(X, X, None, v, 1.0), "gamma", NOT_POSITIVE),
    "FL*, beta": (lambda v: imbdet.sigmoid_focal_star_loss(X, X, None, 2.0, v), "beta", [None, *NO_NUMBERS]),
    "sum over classes, alpha": (lambda v: sum_over_classes(Focal(2.0), X, LABEL, v), "alpha", NO_SHARES),
    "classification loss, alpha": (lambda v: ClassificationLoss("sigmoid", Focal(2.0), v), "alpha", NO_SHARES),
    "margin of focal loss": (Focal, "gamma", NEGATIVE),
    "margin of FL*": (lambda v: FocalStar(2.0, v), "beta", [None, *NO_NUMBERS]),
    "smooth L1, beta": (lambda v: smooth_l1(BOXES, BOXES, v), "beta", NEGATIVE),
    "head, prior": (lambda v: HeadSpec("sigmoid", v), "prior_prob", [0, 1, *NO_SHARES]),
    "head, standard deviation": (lambda v: HeadSpec("sigmoid", None, v), "weight_std", NEGATIVE),
    "head, threshold": (lambda v: HeadSpec("sigmoid", None, 0.01, v), "score_threshold", NO_SHARES),
    "sampler, number": (lambda v: RandomSampler(v, 0.5), "number", [0, 0.5, 2.0, 2**63, *NEGATIVE]),
    "sampler, share": (lambda v: RandomSampler(256, v), "foreground_share", [None, *NO_SHARES]),
    "box coder, weights": (lambda v: BoxCoder((1.0, 1.0, v, 1.0)), "weight", NOT_POSITIVE),
    "box coder, ratio": (lambda v: BoxCoder(max_ratio=v), "max_ratio", NOT_POSITIVE),
    "assigner, foreground": (
        lambda v: MaxIoUAssigner(v, 0.0, "off"),
        "foreground_iou",
        [0, *(v for v in NO_SHARES if v != math.inf)],
    ),
    "assigner, background": (
        lambda v: MaxIoUAssigner(0.5, v, "off"),
        "background_iou",
        [v for v in NO_SHARES if v is not True],
    ),
    "assigner, low quality": (lambda v: MaxIoUAssigner(0.5, 0.4, "argmax", v), "low_quality_iou", NO_SHARES),
}
PAIRS = [
    pytest.param(call, name, value, id=f"{case}: {value!r}")
    for case, (call, name, values) in REFUSED.items()
    for value in values
]


@pytest.mark.parametrize(("call", "name", "value"), PAIRS)
def test_a_value_that_means_nothing_is_refused(call, name, value):
    with pytest.raises(ValueError, match=rf"^{name} is {re.escape(repr(value))}[;,] .*expected "):
        call(value)


@pytest.mark.parametrize("one", [1, 1.0, np.float32(1), np.float64(1), np.int64(1)])
def test_every_kind_of_number_is_taken(one):
    expected = imbdet.sigmoid_focal_loss(X, X, 1.0, 1.0)
    assert torch.equal(imbdet.sigmoid_focal_loss(X, X, one, one), expected)
    assert torch.equal(imbdet.sigmoid_focal_star_loss(X, X, one, one, one - one).isfinite(), X == 0)


def test_compiled_code_may_change_its_parameters():
    torch.compiler.reset()
    compiled = torch.compile(imbdet.sigmoid_focal_loss, backend="eager", fullgraph=True)
    x = torch.linspace(-3, 3, 6).view(2, 3)
    for alpha, gamma in ((0.25, 2.0), (0.3, 1.5), (0.4, 0.7), (None, 3.0)):
        assert_close(compiled(x, X, alpha, gamma), imbdet.sigmoid_focal_loss(x, X, alpha, gamma))


def test_no_weighing_is_none_and_not_minus_one():
    """The value that torchvision's and fvcore's losses have for it."""
    with pytest.raises(
        ValueError,
        match=r"^alpha is -1; expected .* alpha >= 0 and alpha <= 1, or None for no weighing \(-1 in torchvision",
    ):
        imbdet.sigmoid_focal_loss(X, X, -1, 2.0)
    with pytest.raises(ValueError, match=r"^alpha: .* equal to 0, got -1 \(None, null in a study, for none\)$"):
        FocalMethod(**FOCAL | {"alpha": -1})
    with pytest.raises(UserError, match=r"^method focal: alpha: .* 0, got -1 \(None, null in a study, for none\)$"):
        build_method({"name": "focal", **FOCAL, "alpha": -1})
    assert FocalMethod(**FOCAL | {"alpha": None}).loss.alpha is None


UNKNOWN = {
    "activation of a head": (lambda: HeadSpec("softmx", None), r"^activation 'softmx' .* did you mean 'softmax'"),
    "activation of a loss": (lambda: ClassificationLoss("tanh", CrossEntropy(), None), r"^activation 'tanh' does not"),
    "low quality": (lambda: MaxIoUAssigner(0.5, 0.4, "argmin"), r"^low_quality 'argmin' .* did you mean 'argmax'"),
    "low quality that YAML reads from off": (
        lambda: MaxIoUAssigner(0.5, 0.4, False),
        r"^low_quality False does not exist; Known: argmax, off, reassign$",
    ),
    "normalizer": (lambda: FocalMethod(**FOCAL | {"normalizer": "batches"}), r"^normalizer: .*got 'batches'$"),
    "number of weights": (lambda: BoxCoder((1.0, 1.0)), r"^weights are \(1.0, 1.0\); expected four"),
    "order of thresholds": (
        lambda: MaxIoUAssigner(0.4, 0.5, "off"),
        r"^background_iou is 0.5, above foreground_iou 0.4; .*expected background_iou <= foreground_iou$",
    ),
}


@pytest.mark.parametrize(("call", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_word_or_order_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_method_of_ones_own_is_checked_by_its_annotations():
    class Mine(imbdet.Method):
        def __init__(self, count: int, anything, layer: torch.nn.Module, **rest):
            super().__init__(HeadSpec("sigmoid", None), "batch", 0.0)
            self.rest = rest

        def forward(self, samples):
            return {}

    layer = torch.nn.Identity()
    assert Mine(2, object(), layer, other=3).rest == {"other": 3}
    with pytest.raises(ValueError, match=r"^count: .*valid integer, got 'two'$"):
        Mine("two", None, layer)
    with pytest.raises(ValueError, match=r"^layer: .*instance of Module, got 3$"):
        Mine(2, None, 3)

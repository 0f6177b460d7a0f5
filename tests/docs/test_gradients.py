"""docs/gradients.md: a proof in sympy for each labelled equation, and the same derivatives from the code."""

import re
from pathlib import Path

import pytest
import sympy as sp
import torch

from imbdet.losses import sigmoid_cross_entropy, sigmoid_focal_loss, sigmoid_focal_star_loss

PAGE = Path(__file__).parents[2] / "docs" / "gradients.md"

x, beta = sp.symbols("x beta", real=True)
gamma, alpha = sp.symbols("gamma alpha", positive=True)
z = sp.symbols("z0:3", real=True)
SIGNS = (1, -1)


def sigmoid(u):
    return 1 / (1 + sp.exp(-u))


def p_t(y):
    return sigmoid(y * x)


def p_star(y):
    return sigmoid(gamma * y * x + beta)


def ce(y):
    return -sp.log(p_t(y))


def fl(y, exponent=gamma):
    return -((1 - p_t(y)) ** exponent) * sp.log(p_t(y))


def fl_star(y):
    return -sp.log(p_star(y)) / gamma


def fl_slope(y):
    """The right side of (FL-5)."""
    return y * (1 - p_t(y)) ** gamma * (gamma * p_t(y) * sp.log(p_t(y)) + p_t(y) - 1)


def dx(expression):
    return sp.diff(expression, x)


# Softmax of three classes of which class 0 is the right one; any number behaves alike, the others enter by their sum.
P = [sp.exp(logit) / sum(sp.exp(other) for other in z) for logit in z]
SOFTMAX_CE = -sp.log(P[0])
SOFTMAX_FL = -((1 - P[0]) ** gamma) * sp.log(P[0])
G = (1 - P[0]) ** gamma * (gamma * P[0] * sp.log(P[0]) + P[0] - 1)
p = sp.Symbol("p", positive=True)
FL_BY_P = sp.diff(-((1 - p) ** gamma) * sp.log(p), p)


def delta(j):
    return int(j == 0)


# Each proof lists pairs of expressions that the equation says are equal; for sigmoids, for both signs of y.
PROOFS = {
    "N-1": [(sigmoid(y * x), sp.exp(y * x) / (1 + sp.exp(y * x))) for y in SIGNS],
    "N-2": [(p_t(1), sigmoid(x)), (p_t(-1), 1 - sigmoid(x))],
    "N-3": [(dx(p_t(y)), y * p_t(y) * (1 - p_t(y))) for y in SIGNS],
    "N-4": [(dx(sp.log(p_t(y))), y * (1 - p_t(y))) for y in SIGNS],
    "CE-1": [(ce(y), sp.log(1 + sp.exp(-y * x))) for y in SIGNS],
    "CE-2": [(dx(ce(y)), -dx(p_t(y)) / p_t(y)) for y in SIGNS],
    "CE-3": [(dx(ce(y)), -y * p_t(y) * (1 - p_t(y)) / p_t(y)) for y in SIGNS],
    "CE-4": [(dx(ce(y)), y * (p_t(y) - 1)) for y in SIGNS],
    "CE-5": [(dx(weight * ce(y)), weight * y * (p_t(y) - 1)) for y, weight in ((1, alpha), (-1, 1 - alpha))],
    "FL-1": [(fl(y), (1 - p_t(y)) ** gamma * ce(y)) for y in SIGNS],
    "FL-2": [
        (dx(fl(y)), -sp.log(p_t(y)) * dx((1 - p_t(y)) ** gamma) - (1 - p_t(y)) ** gamma * dx(sp.log(p_t(y))))
        for y in SIGNS
    ],
    "FL-3": [
        pair
        for y in SIGNS
        for pair in (
            (dx((1 - p_t(y)) ** gamma), -gamma * (1 - p_t(y)) ** (gamma - 1) * y * p_t(y) * (1 - p_t(y))),
            (dx((1 - p_t(y)) ** gamma), -y * gamma * p_t(y) * (1 - p_t(y)) ** gamma),
        )
    ],
    "FL-4": [
        (
            dx(fl(y)),
            y * gamma * p_t(y) * (1 - p_t(y)) ** gamma * sp.log(p_t(y)) - y * (1 - p_t(y)) ** gamma * (1 - p_t(y)),
        )
        for y in SIGNS
    ],
    "FL-5": [(dx(fl(y)), fl_slope(y)) for y in SIGNS],
    "FL-6": [(dx(fl(y, sp.Integer(0))), y * (p_t(y) - 1)) for y in SIGNS],
    "FL-7": [(fl(y) / ce(y), (1 - p_t(y)) ** gamma) for y in SIGNS],
    "FL-8": [
        (dx(fl(y)) / dx(ce(y)), (1 - p_t(y)) ** gamma * (1 - gamma * p_t(y) * sp.log(p_t(y)) / (1 - p_t(y))))
        for y in SIGNS
    ],
    "FL-9": [(dx(weight * fl(y)), weight * fl_slope(y)) for y, weight in ((1, alpha), (-1, 1 - alpha))],
    "SM-1": [(sum(P), sp.Integer(1))] + [(P[j] / P[0], sp.exp(z[j] - z[0])) for j in range(3)],
    "SM-2": [(sp.diff(P[0], z[j]), P[0] * (delta(j) - P[j])) for j in range(3)],
    "SM-3": [(sp.diff(SOFTMAX_CE, z[j]), P[j] - delta(j)) for j in range(3)],
    "SM-4": [(FL_BY_P, (1 - p) ** (gamma - 1) * (gamma * sp.log(p) - (1 - p) / p))],
    "SM-5": [(sp.diff(SOFTMAX_FL, z[j]), FL_BY_P.subs(p, P[0]) * P[0] * (delta(j) - P[j])) for j in range(3)],
    "SM-6": [(sp.diff(SOFTMAX_FL, z[0]), G)],
    "SM-7": [(sp.diff(SOFTMAX_FL, z[j]), -P[j] / (1 - P[0]) * G) for j in (1, 2)],
    "SM-8": [(sum(sp.diff(SOFTMAX_FL, logit) for logit in z), sp.Integer(0))],
    "FS-1": [(p_star(y), p_t(y).subs(x, gamma * x + y * beta)) for y in SIGNS],
    "FS-2": [(fl_star(y), ce(y).subs(x, gamma * x + y * beta) / gamma) for y in SIGNS],
    "FS-3": [(dx(p_star(y)), y * gamma * p_star(y) * (1 - p_star(y))) for y in SIGNS],
    "FS-4": [(dx(fl_star(y)), -dx(p_star(y)) / p_star(y) / gamma) for y in SIGNS],
    "FS-5": [(dx(fl_star(y)), y * (p_star(y) - 1)) for y in SIGNS],
    "FS-6": [(fl_star(y).subs({gamma: 1, beta: 0}), ce(y)) for y in SIGNS],
    "FS-7": [(dx(weight * fl_star(y)), weight * y * (p_star(y) - 1)) for y, weight in ((1, alpha), (-1, 1 - alpha))],
}

# Logits as logarithms of positive numbers, and p inside (0, 1): sigmoids and softmaxes become ratios, easy to reduce.
ODDS = sp.symbols("odds0:5", positive=True)
AS_ODDS = {**dict(zip((x, beta, *z), map(sp.log, ODDS), strict=True)), p: ODDS[0] / (1 + ODDS[0])}


def equal(left, right):
    """Whether sympy's algebra reduces the difference to zero, for all values of all symbols."""
    difference = sp.simplify((left - right).subs(AS_ODDS))
    return sp.simplify(sp.expand_log(difference, force=True)) == 0


@pytest.mark.parametrize("label", PROOFS)
def test_equation(label):
    for left, right in PROOFS[label]:
        assert equal(left, right)


def test_a_lost_sign_or_bracket_is_no_proof():
    assert not equal(dx(ce(1)), p_t(1) * (1 - p_t(1)) / p_t(1))
    assert not equal(dx(fl(1)), (1 - p_t(1) ** gamma) * (gamma * p_t(1) * sp.log(p_t(1)) + p_t(1) - 1))


def test_every_label_of_the_page_has_a_proof_and_every_proof_a_label():
    text = PAGE.read_text(encoding="utf-8")
    equations = re.findall(r"^```math\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    labels = [label for equation in equations for label in re.findall(r"\\tag\{(.+?)\}", equation)]
    assert len(labels) == len(equations), "each displayed equation has one label"
    assert labels == list(PROOFS)
    assert set(re.findall(r"\(([A-Z]+-\d+)\)", text)) <= set(labels), "the text refers to equations that exist"


def test_the_lowest_derivative_is_where_the_page_says():
    slope = sp.lambdify(x, fl_slope(1).subs(gamma, 2))
    lowest = sp.nsolve(dx(fl_slope(1).subs(gamma, 2)), x, -2.8)
    text = PAGE.read_text(encoding="utf-8")
    assert f"smallest, −{abs(slope(float(lowest))):.3f}, near $x_t = -{abs(lowest):.2f}$" in text
    assert f"cross entropy is −{abs(p_t(1).subs(x, lowest) - 1):.3f}" in text


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("CE-4", sigmoid_cross_entropy),
        ("FL-9", lambda logits, targets: sigmoid_focal_loss(logits, targets, 0.3, 2.0)),
        ("FS-7", lambda logits, targets: sigmoid_focal_star_loss(logits, targets, 0.3, 2.0, 1.0)),
    ],
)
def test_the_code_has_the_derivatives_of_the_page(name, loss):
    values = {gamma: 2, alpha: sp.Rational("0.3"), beta: 1}
    for (_, right), target in zip(PROOFS[name], (1.0, 0.0), strict=True):
        logits = torch.linspace(-9, 9, 19, dtype=torch.float64, requires_grad=True)
        loss(logits[:, None], torch.full((19, 1), target, dtype=torch.float64)).sum().backward()
        expected = [float(right.subs(values | {x: sp.Integer(value)})) for value in range(-9, 10)]
        torch.testing.assert_close(logits.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-15)

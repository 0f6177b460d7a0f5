"""Misstatements E8 to E10 and E14 to E19: values and derivatives of cross entropy, focal loss and FL*."""

import numpy as np
import pytest
import torch

from imbdet.losses import sigmoid_cross_entropy, sigmoid_focal_loss, sigmoid_focal_star_loss

GRID = torch.linspace(-6, 6, 49, dtype=torch.float64)[:, None]
SIGNS = (1, -1)


def target(y):
    return torch.full_like(GRID, (y + 1) // 2)


def slope(function):
    """Derivative of an elementwise function at the grid."""
    x = GRID.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(function(x).sum(), x)
    return derivative


def p_t(y, x=GRID):
    return torch.sigmoid(y * x)


def test_e08_focal_loss_raises_nothing():
    for gamma in (0.5, 1.0, 2.0, 5.0):
        for y in SIGNS:
            assert (sigmoid_focal_loss(GRID, target(y), None, gamma) <= sigmoid_cross_entropy(GRID, target(y))).all()
    p = torch.tensor([[0.1], [0.5], [0.9], [0.968]], dtype=torch.float64)
    x, one = torch.logit(p), torch.ones_like(p)
    times_smaller = (sigmoid_cross_entropy(x, one) / sigmoid_focal_loss(x, one, None, 2.0)).flatten().tolist()
    assert times_smaller == pytest.approx([1 / 0.81, 4, 100, 1 / 0.032**2])
    assert max(times_smaller[:2]) <= 4 * (1 + 1e-12)


def test_e09_every_positive_gamma_focuses():
    """The easier of two examples loses more, also at gamma 1 and below."""
    x, one = torch.tensor([[-1.0], [1.0]], dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    for gamma in (0.1, 0.5, 1.0, 2.0):
        hard, easy = (sigmoid_focal_loss(x, one, None, gamma) / sigmoid_cross_entropy(x, one)).flatten()
        assert easy < hard < 1


def test_e10_the_whole_formula():
    for y, alpha_t in ((1, 0.25), (-1, 0.75)):
        expected = -alpha_t * (1 - p_t(y)) ** 2 * p_t(y).log()
        torch.testing.assert_close(sigmoid_focal_loss(GRID, target(y), 0.25, 2.0), expected, rtol=1e-12, atol=0)


def test_e14_a_softmax_has_off_diagonal_terms():
    z = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda logits: torch.softmax(logits, 0)[0], z)
    p = torch.softmax(z, 0)
    assert jacobian[0] == pytest.approx(float(p[0] * (1 - p[0])))
    assert jacobian[1:].tolist() == pytest.approx((-p[0] * p[1:]).tolist())
    assert (jacobian[1:].abs() > 0.01).all(), "far from the zeros of independent sigmoids"


def test_e15_y_is_inside_p_t():
    for y in SIGNS:
        torch.testing.assert_close(sigmoid_cross_entropy(GRID, target(y)), -p_t(y).log(), rtol=1e-12, atol=0)
    y = -1
    assert (-y * p_t(y).log() < 0).all(), "with a further factor y the loss of a negative would be below 0"


def test_e16_the_derivative_of_p_t_has_the_sign_of_y():
    for y in SIGNS:
        derivative = slope(lambda x, y=y: p_t(y, x))
        torch.testing.assert_close(derivative, y * p_t(y) * (1 - p_t(y)))
        assert (derivative * y > 0).all()


def test_e17_the_lost_minus_sign():
    for y in SIGNS:
        true = slope(lambda x, y=y: sigmoid_cross_entropy(x, target(y)))
        torch.testing.assert_close(true, y * (p_t(y) - 1))
        torch.testing.assert_close(true, -y / p_t(y) * p_t(y) * (1 - p_t(y)))
        torch.testing.assert_close(y / p_t(y) * p_t(y) * (1 - p_t(y)), -true)


def focal_slope(p, gamma, power):
    return power * (gamma * p * np.log(p) + p - 1)


def test_e18_the_exponent_belongs_to_the_bracket():
    p = p_t(1).numpy()
    for gamma in (0.5, 1.0, 2.0, 5.0):
        true = slope(lambda x, gamma=gamma: sigmoid_focal_loss(x, target(1), None, gamma)).numpy()
        np.testing.assert_allclose(true, focal_slope(p, gamma, (1 - p) ** gamma), rtol=1e-9)
        assert np.allclose(true, focal_slope(p, gamma, 1 - p**gamma)) == (gamma == 1)
    p = 1 / (1 + np.exp(-0.7))
    assert focal_slope(p, 2, (1 - p) ** 2) == pytest.approx(-0.09585, abs=5e-6)
    assert focal_slope(p, 2, 1 - p**2) == pytest.approx(-0.48191, abs=5e-6)


def test_e19_the_domain_and_the_derivative_of_fl_star():
    for y in SIGNS:
        derivative = slope(lambda x, y=y: sigmoid_focal_star_loss(x, target(y), None, 2.0, 1.0))
        torch.testing.assert_close(derivative, y * (torch.sigmoid(2 * y * GRID + 1) - 1))
    for gamma in (0.0, -1.0):
        with pytest.raises(ValueError, match="gamma"):
            sigmoid_focal_star_loss(GRID, target(1), None, gamma, 1.0)

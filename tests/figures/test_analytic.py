"""Laws of the analytic curves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from imbdet.figures import analytic

MARGINS = np.linspace(-700, 700, 2801)
gammas = st.floats(0, 5)
positive_gammas = st.floats(0.1, 5)
betas = st.floats(-3, 3)
points = st.floats(-30, 30)


@given(points, gammas)
def test_slope_of_the_focal_loss_is_its_derivative(x, gamma):
    step = 1e-5
    around = analytic.focal_loss(np.array([x - step, x + step]), gamma)
    slope = analytic.focal_loss_slope(np.array([x]), gamma)[0]
    assert_allclose((around[1] - around[0]) / (2 * step), slope, rtol=1e-5, atol=1e-8)


@given(points, positive_gammas, betas)
def test_slope_of_focal_star_is_its_derivative(x, gamma, beta):
    step = 1e-5
    around = analytic.focal_star(np.array([x - step, x + step]), gamma, beta)
    slope = analytic.focal_star_slope(np.array([x]), gamma, beta)[0]
    assert_allclose((around[1] - around[0]) / (2 * step), slope, rtol=1e-5, atol=1e-8)


def test_focal_loss_at_gamma_0_and_focal_star_at_1_0_are_cross_entropy():
    loss, slope = analytic.cross_entropy(MARGINS), analytic.cross_entropy_slope(MARGINS)
    assert_allclose(analytic.focal_loss(MARGINS, 0.0), loss, rtol=1e-12)
    assert_allclose(analytic.focal_loss_slope(MARGINS, 0.0), slope, rtol=1e-12)
    assert_allclose(analytic.focal_star(MARGINS, 1.0, 0.0), loss, rtol=1e-12)
    assert_allclose(analytic.focal_star_slope(MARGINS, 1.0, 0.0), slope, rtol=1e-12)


@given(gammas, positive_gammas, betas)
def test_nothing_overflows_and_no_loss_is_raised(gamma, star_gamma, beta):
    focal, star = analytic.focal_loss(MARGINS, gamma), analytic.focal_star(MARGINS, star_gamma, beta)
    slopes = analytic.focal_loss_slope(MARGINS, gamma), analytic.focal_star_slope(MARGINS, star_gamma, beta)
    for values in (focal, star, *slopes):
        assert np.isfinite(values).all()
    assert (focal <= analytic.cross_entropy(MARGINS) * (1 + 1e-12)).all()
    assert (np.diff(focal) <= 0).all()
    assert (np.diff(star) <= 0).all()
    assert (np.diff(slopes[1]) >= 0).all()


@pytest.mark.parametrize(("gamma", "lowest"), [(0.5, -1.009), (1, -1.045), (2, -1.129), (5, -1.315)])
def test_focal_loss_slope_undershoots_minus_1(gamma, lowest):
    assert analytic.focal_loss_slope(np.linspace(-10, 10, 20001), gamma).min() == pytest.approx(lowest, abs=5e-4)


def test_ratios_that_the_paper_quotes():
    def ratio(p_t):
        p_t = np.array([p_t])
        cross_entropy, focal = (analytic.focal_loss_of_probability(p_t, gamma)[0] for gamma in (0, 2))
        return cross_entropy / focal

    assert ratio(0.9) == pytest.approx(100)
    assert ratio(0.968) == pytest.approx(976.6, abs=0.05)
    assert ratio(0.5) == pytest.approx(4)

"""Laws of the cumulative normalised focal loss."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imbdet.errors import UserError
from imbdet.evaluation.cumulative import GAMMAS, cumulative_share, cumulative_table, fraction_grid

margins = arrays(np.float64, st.integers(1, 60), elements=st.floats(-30, 30))
gammas = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 5.0])


def reference(x_t, gamma, alpha, fraction):
    """Definition, one sample after the other; between k/N and (k+1)/N the next loss counts in proportion."""
    p_t = [1 / (1 + np.exp(-x)) for x in x_t]
    losses = sorted(-alpha * (1 / (1 + np.exp(x))) ** gamma * np.log(p) for x, p in zip(x_t, p_t, strict=True))
    reached = sum(loss * min(max(fraction * len(losses) - k, 0), 1) for k, loss in enumerate(losses))
    return reached / sum(losses)


@given(margins, gammas, st.floats(0.01, 1), st.floats(0, 1))
def test_share_follows_the_definition_for_every_alpha(x_t, gamma, alpha, fraction):
    share = cumulative_share(x_t, gamma, np.array([fraction]))[0]
    assert share == pytest.approx(reference(x_t, gamma, alpha, fraction), rel=1e-6, abs=1e-12)


@given(margins, gammas)
def test_share_rises_from_0_to_1_and_is_convex_below_the_diagonal(x_t, gamma):
    fractions = np.linspace(0, 1, 41)
    share = cumulative_share(x_t, gamma, fractions)
    steps = np.diff(share)
    assert share[0] == 0
    assert share[-1] == pytest.approx(1, abs=1e-12)
    assert (steps >= -1e-12).all()
    assert (np.diff(steps) >= -1e-12).all()
    assert (share <= fractions + 1e-12).all()


@given(margins, gammas, st.randoms(use_true_random=False))
def test_order_of_the_samples_is_irrelevant(x_t, gamma, random):
    shuffled = x_t.copy()
    random.shuffle(shuffled)
    fractions = fraction_grid()
    np.testing.assert_array_equal(cumulative_share(x_t, gamma, fractions), cumulative_share(shuffled, gamma, fractions))


@given(margins)
def test_a_larger_gamma_leaves_less_to_the_easy_samples(x_t):
    shares = [cumulative_share(x_t, gamma, fraction_grid()) for gamma in GAMMAS]
    for less_focused, more_focused in itertools.pairwise(shares):
        assert (more_focused <= less_focused + 1e-12).all()


@given(st.floats(-30, 30), st.integers(1, 20), gammas)
def test_equal_samples_give_the_diagonal(x_t, count, gamma):
    fractions = np.linspace(0, 1, 13)
    np.testing.assert_allclose(cumulative_share(np.full(count, x_t), gamma, fractions), fractions, atol=1e-12)


def test_gamma_0_is_cross_entropy():
    x_t = np.random.default_rng(0).normal(1, 3, 500)
    losses = np.sort(np.log1p(np.exp(-x_t)))
    expected = np.cumsum(losses) / losses.sum()
    np.testing.assert_allclose(cumulative_share(x_t, 0.0, np.arange(1, 501) / 500), expected, rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_logits_far_out_stay_finite_and_exact(gamma):
    """Of the margins 100 and 99 the second has e^(1 + gamma) times the loss: there 1 - p_t rounds to 0."""
    share = cumulative_share(np.array([100.0, 99.0]), gamma, np.array([0.5]))[0]
    assert share == pytest.approx(1 / (1 + np.exp(1 + gamma)), rel=1e-12)
    assert np.isfinite(cumulative_share(np.array([-100.0, 100.0]), gamma, fraction_grid())).all()


def test_many_samples_lose_no_precision():
    """Two kinds of samples whose sums are known in closed form; a million of them, in fp32 as a model gives them."""
    x_t = np.repeat(np.array([3.0, -1.0], dtype=np.float32), [900_000, 100_000])
    easy, hard = 0.9 * np.log1p(np.exp(-3.0)), 0.1 * np.log1p(np.exp(1.0))
    share = cumulative_share(x_t, 0.0, np.array([0.45, 0.9, 0.95]))
    expected = np.array([easy / 2, easy, easy + hard / 2]) / (easy + hard)
    np.testing.assert_allclose(share, expected, rtol=1e-13)


def test_memory_is_a_few_arrays_whatever_the_number_of_gammas():
    x_t = np.zeros(1_000_000, dtype=np.float32)
    tracemalloc.start()
    cumulative_table(x_t[:10], x_t)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * x_t.size


def test_grid_is_about_200_fractions_dense_near_1():
    grid = fraction_grid()
    assert 180 <= len(grid) <= 220
    assert grid[0] == 0
    assert grid[-1] == 1
    assert (np.diff(grid) > 0).all()
    assert np.sum(grid > 0.99) > 90
    assert grid[-2] == pytest.approx(1 - 1e-6, abs=1e-12)


def test_table_holds_both_sets_and_every_gamma():
    rng = np.random.default_rng(1)
    foreground, background = rng.normal(1, 2, 100), rng.normal(6, 2, 10_000)
    table = cumulative_table(foreground, background)
    assert list(table.columns) == ["set", "gamma", "fraction", "cumulative", "samples"]
    assert len(table) == 2 * len(GAMMAS) * len(fraction_grid())
    for (name, gamma), rows in table.groupby(["set", "gamma"]):
        x_t = foreground if name == "foreground" else background
        assert (rows["samples"] == len(x_t)).all()
        np.testing.assert_array_equal(rows["cumulative"], cumulative_share(x_t, gamma, rows["fraction"].to_numpy()))
    assert len(table.to_csv(index=False)) < 200_000


@pytest.mark.parametrize(
    ("foreground", "message"),
    [([], "foreground: no samples"), ([1.0, np.nan], "1 of 2 logits"), ([2000.0], "every loss is zero")],
)
def test_samples_without_a_meaning_are_refused(foreground, message):
    with pytest.raises(UserError, match=message):
        cumulative_table(np.array(foreground), np.ones(3))


def test_negative_gamma_is_refused():
    with pytest.raises(UserError, match="gamma of at least 0"):
        cumulative_share(np.ones(3), -1.0, np.ones(1))

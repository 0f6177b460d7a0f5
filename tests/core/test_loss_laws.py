"""Laws of the elementwise losses: the paper's equations, their limits and their numerical safety."""

from functools import partial

import loss_reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from imbdet.losses import sigmoid_cross_entropy, sigmoid_focal_loss, sigmoid_focal_star_loss, smooth_l1

SATURATED = [0.0, 1e-3, 1.0, 5.0, 15.0, 20.0, 40.0, 88.0, 90.0, 100.0]
GAMMAS = [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0]
ALPHAS = st.none() | st.floats(0, 1)
seeded = settings(max_examples=50, deadline=None, derandomize=True)


@st.composite
def logits_and_targets(draw, limit=100.0):
    """[N, C] fp64 logits and targets of 0 and 1, any N and C."""
    n, c = draw(st.integers(0, 5)), draw(st.integers(1, 4))
    logits = draw(st.lists(st.floats(-limit, limit), min_size=n * c, max_size=n * c))
    targets = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n * c, max_size=n * c))
    return (torch.tensor(v, dtype=torch.float64).reshape(n, c) for v in (logits, targets))


def value_and_gradient(loss, logits, targets):
    logits = logits.detach().clone().requires_grad_()
    values = loss(logits, targets)
    values.sum().backward()
    return values.detach(), logits.grad


def assert_same_loss(loss, other, logits, targets, **tolerance):
    for a, b in zip(*(value_and_gradient(f, logits, targets) for f in (loss, other)), strict=True):
        assert_close(a, b, **tolerance)


def focal(alpha=None, gamma=2.0):
    return partial(sigmoid_focal_loss, alpha=alpha, gamma=gamma)


def focal_star(alpha=None, gamma=2.0, beta=1.0):
    return partial(sigmoid_focal_star_loss, alpha=alpha, gamma=gamma, beta=beta)


def grid():
    """Every saturated logit of both signs, once as target and once not, in fp32."""
    logits = torch.tensor(SATURATED)
    logits = torch.cat([logits, -logits]).repeat(2, 1).T.contiguous()
    return logits, torch.tensor([0.0, 1.0]).expand_as(logits)


@seeded
@given(logits_and_targets(), ALPHAS, st.floats(0, 5), st.floats(0.1, 5), st.floats(-3, 3))
def test_values_and_gradients_follow_the_equations(data, alpha, gamma, steepness, beta):
    logits, targets = data
    pairs = [
        (sigmoid_cross_entropy, loss_reference.cross_entropy, None),
        (focal(alpha, gamma), partial(loss_reference.focal, gamma=gamma), alpha),
        (
            focal_star(alpha, steepness, beta),
            partial(loss_reference.focal_star, gamma=steepness, beta=beta),
            alpha,
        ),
    ]
    for ours, reference, weight in pairs:
        expected = loss_reference.loop(reference, logits.numpy(), targets.numpy(), weight)
        for got, want in zip(value_and_gradient(ours, logits, targets), expected, strict=True):
            assert_close(got, torch.from_numpy(want), rtol=1e-9, atol=1e-300)


@seeded
@given(logits_and_targets())
def test_without_focus_both_losses_are_binary_cross_entropy(data):
    logits, targets = data
    bce = partial(F.binary_cross_entropy_with_logits, reduction="none")
    for loss in (sigmoid_cross_entropy, focal(gamma=0.0), focal_star(gamma=1.0, beta=0.0)):
        assert_same_loss(loss, bce, logits, targets, rtol=1e-12, atol=1e-12)


@seeded
@given(logits_and_targets(limit=20.0), st.floats(0, 5))
def test_focal_loss_over_cross_entropy_is_the_modulating_factor(data, gamma):
    logits, targets = data
    p = torch.sigmoid(logits)
    factor = torch.where(targets == 1, 1 - p, p) ** gamma
    assert_close(
        focal(gamma=gamma)(logits, targets), factor * sigmoid_cross_entropy(logits, targets), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("make", [focal, focal_star])
def test_alpha_weighs_targets_against_the_rest(make):
    logits, targets = grid()
    of_targets = value_and_gradient(make(1.0), logits, targets)
    of_others = value_and_gradient(make(0.0), logits, targets)
    for kept, silenced in ((of_targets, targets == 0), (of_others, targets == 1)):
        for tensor in kept:
            assert (tensor[silenced] == 0).all()
            assert (tensor[~silenced] != 0).any()
    unweighted, halved = (value_and_gradient(make(a), logits, targets) for a in (None, 0.5))
    for whole, half, a, b in zip(unweighted, halved, of_targets, of_others, strict=True):
        assert_close(half, 0.5 * whole)
        assert_close(whole, a + b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_saturated_logits_stay_finite(gamma, dtype):
    logits, targets = grid()
    losses = [focal(0.25, gamma)] + ([focal_star(0.25, gamma, 1.0)] if gamma else [])
    for loss in losses:
        for tensor in value_and_gradient(loss, logits.to(dtype), targets):
            assert tensor.isfinite().all()


@seeded
@given(st.floats(-100, 100, width=32), st.floats(0, 5), st.sampled_from([0.0, 1.0]))
def test_any_logit_and_gamma_stay_finite(x, gamma, target):
    logits = torch.tensor([[x]], dtype=torch.float32)
    for tensor in value_and_gradient(focal(0.25, gamma), logits, torch.tensor([[target]])):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_torchvision_has_no_gradient_at_saturated_logits_and_we_have(gamma):
    """Where 1 - p_t rounds to 0, autograd multiplies its infinite derivative of (1 - p_t)^gamma by 0."""
    logits, targets = torch.full((1, 1), 20.0), torch.ones(1, 1)
    theirs = value_and_gradient(partial(torchvision_focal_loss, alpha=-1, gamma=gamma), logits, targets)[1]
    ours = value_and_gradient(focal(None, gamma), logits, targets)[1]
    _, expected = loss_reference.loop(partial(loss_reference.focal, gamma=gamma), logits.numpy(), targets.numpy(), None)
    assert theirs.isnan().all()
    assert_close(ours.double(), torch.from_numpy(expected), rtol=1e-5, atol=0)


@seeded
@given(logits_and_targets(limit=10.0), st.sampled_from([0.0, 1.0, 2.0, 5.0]), st.floats(0, 1))
def test_torchvision_agrees_where_nothing_is_saturated(data, gamma, alpha):
    logits, targets = data
    theirs = partial(torchvision_focal_loss, alpha=alpha, gamma=gamma)
    assert_same_loss(focal(alpha, gamma), theirs, logits, targets, rtol=1e-9, atol=1e-12)


def test_meaningless_parameters_are_refused():
    logits = targets = torch.zeros(1, 1)
    for gamma in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="gamma > 0"):
            focal_star(gamma=gamma)(logits, targets)
    for gamma in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="gamma >= 0"):
            focal(gamma=gamma)(logits, targets)


@pytest.mark.parametrize(
    "loss", [sigmoid_cross_entropy, focal(0.25, 2.0), focal(None, 0.5), focal_star(0.25, 2.0, 1.0)]
)
def test_analytic_gradients_equal_numeric_ones(loss):
    x = torch.linspace(-6, 6, 12, dtype=torch.float64).reshape(4, 3).requires_grad_()
    targets = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(loss, (x, targets))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [sigmoid_cross_entropy, focal(0.25, 2.0), focal_star(0.25, 2.0, 1.0)])
def test_half_precision_is_promoted_first(loss, dtype):
    logits, targets = grid()
    half = logits.to(dtype)
    values, grads = value_and_gradient(loss, half, targets.to(dtype))
    expected, expected_grads = value_and_gradient(loss, half.float(), targets)
    assert values.dtype == torch.float32
    assert grads.dtype == dtype
    assert_close(values, expected, rtol=0, atol=0)
    assert_close(grads, expected_grads.to(dtype), rtol=0, atol=0)


@seeded
@given(logits_and_targets(), st.floats(0, 1), ALPHAS, st.floats(0, 5))
def test_soft_targets_interpolate(data, t, alpha, gamma):
    logits, _ = data
    soft, target, other = (
        value_and_gradient(focal(alpha, gamma), logits, torch.full_like(logits, v)) for v in (t, 1.0, 0.0)
    )
    for got, one, zero in zip(soft, target, other, strict=True):
        assert_close(got, t * one + (1 - t) * zero, rtol=1e-9, atol=1e-12)


def test_smooth_l1_is_a_parabola_then_a_line():
    d = np.array([-3.0, -0.5, -0.1, 0.0, 0.05, 0.2, 7.0])
    deltas, targets = torch.tensor(d + 2), torch.full((7,), 2.0, dtype=torch.float64)
    for beta in (0.0, 0.11, 1.0):
        line = np.abs(d) - beta / 2
        parabola = d**2 / (2 * beta) if beta else line
        expected = np.where(np.abs(d) < beta, parabola, line)
        assert_close(smooth_l1(deltas, targets, beta), torch.from_numpy(expected))
    assert smooth_l1(deltas.bfloat16(), targets.float(), 0.0).dtype == torch.float32

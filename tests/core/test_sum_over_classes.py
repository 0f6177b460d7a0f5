"""The memory-saving sum over classes equals the elementwise losses at any size, whatever ignored rows hold."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from imbdet import class_sums
from imbdet.losses import (
    CrossEntropy,
    Focal,
    FocalStar,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    sigmoid_focal_star_loss,
    sum_over_classes,
)

ELEMENTWISE = {
    CrossEntropy(): lambda x, t, alpha: sigmoid_focal_loss(x, t, alpha, 0.0),
    Focal(0.5): lambda x, t, alpha: sigmoid_focal_loss(x, t, alpha, 0.5),
    Focal(2.0): lambda x, t, alpha: sigmoid_focal_loss(x, t, alpha, 2.0),
    FocalStar(2.0, 1.0): lambda x, t, alpha: sigmoid_focal_star_loss(x, t, alpha, 2.0, 1.0),
}


def candidates(n, k, dtype=torch.float64, seed=0):
    """[n, k] logits, labels from -1 (ignored) to k (background), and a gradient for each row."""
    random = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, k, dtype=dtype, generator=random)
    label = torch.randint(-1, k + 1, (n,), generator=random)
    return logits.requires_grad_(), label, torch.rand(n, dtype=dtype, generator=random)


def rows_and_gradient(loss, logits, label, grad, alpha, compiled=False):
    logits = logits.detach().clone().requires_grad_()
    rows = sum_over_classes(loss, logits, label, alpha, compiled)
    rows.backward(grad)
    return rows.detach(), logits.grad


def assert_equals_elementwise(loss, logits, label, grad, alpha, **tolerance):
    rows, gradient = rows_and_gradient(loss, logits, label, grad, alpha)
    k = logits.shape[1]
    targets = F.one_hot(label.clamp(min=0), k + 1)[:, :k]
    expected = torch.where(label >= 0, ELEMENTWISE[loss](logits, targets, alpha).sum(1), 0.0)
    (expected_gradient,) = torch.autograd.grad(expected, logits, grad)
    assert_close(rows, expected, **tolerance)
    assert_close(gradient, expected_gradient, **tolerance)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 40),
    st.integers(1, 6),
    st.sampled_from(list(ELEMENTWISE)),
    st.none() | st.floats(0, 1),
    st.integers(0, 100),
)
def test_it_is_the_sum_of_the_elementwise_losses(n, k, loss, alpha, seed):
    assert_equals_elementwise(loss, *candidates(n, k, seed=seed), alpha, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("n", "k"), [(0, 3), (1, 1), (7, 3), (8, 3), (9, 3), (17, 1), (5, 100)])
def test_blocks_of_any_size_join_without_a_seam(monkeypatch, n, k):
    """Blocks of 24 elements: 8 rows of 3 classes, 24 of one class, a single row of 100."""
    monkeypatch.setattr(class_sums, "BLOCK_ELEMENTS", 24)
    assert_equals_elementwise(Focal(2.0), *candidates(n, k), 0.25, rtol=1e-10, atol=1e-13)


def test_the_real_block_size_joins_without_a_seam():
    rows = class_sums.BLOCK_ELEMENTS // 80
    for n in (rows - 1, rows, rows + 1, 2 * rows + 3):
        assert_equals_elementwise(Focal(2.0), *candidates(n, 80), 0.25, rtol=1e-10, atol=1e-13)


def test_cross_entropy_without_alpha_is_the_plain_one():
    logits, label, grad = candidates(20, 4)
    rows, _ = rows_and_gradient(CrossEntropy(), logits, label, grad, None)
    targets = F.one_hot(label.clamp(min=0), 5)[:, :4]
    assert_close(rows, torch.where(label >= 0, sigmoid_cross_entropy(logits, targets).sum(1), 0.0))


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=str)
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), float("-inf")])
def test_ignored_rows_may_hold_anything(loss, junk):
    logits, label, grad = candidates(30, 3)
    ignored = label == -1
    assert ignored.any()
    clean = rows_and_gradient(loss, logits, label, grad, 0.25)
    dirty = torch.where(ignored[:, None], junk, logits.detach())
    rows, gradient = rows_and_gradient(loss, dirty, label, torch.where(ignored, junk, grad), 0.25)
    assert_close(rows, clean[0], rtol=0, atol=0)
    assert_close(gradient, clean[1], rtol=0, atol=0)
    assert (rows[ignored] == 0).all()
    assert (gradient[ignored] == 0).all()


def test_gradcheck():
    logits, label, _ = candidates(6, 3)
    for loss in ELEMENTWISE:
        assert torch.autograd.gradcheck(lambda x, loss=loss: sum_over_classes(loss, x, label, 0.25), (logits,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted_and_its_gradient_is_half_again(dtype):
    logits, label, grad = candidates(20, 4, torch.float32)
    half = logits.detach().to(dtype)
    rows, gradient = rows_and_gradient(Focal(2.0), half, label, grad, 0.25)
    expected = rows_and_gradient(Focal(2.0), half.float(), label, grad, 0.25)
    assert rows.dtype == torch.float32
    assert_close(rows, expected[0], rtol=0, atol=0)
    assert_close(gradient, expected[1].to(dtype), rtol=0, atol=0)


def test_saturated_logits_stay_finite():
    logits = torch.tensor([[100.0, -100.0], [-100.0, 100.0], [100.0, 100.0]])
    for gamma in (0.0, 0.1, 0.5, 1.0, 2.0, 5.0):
        for tensor in rows_and_gradient(Focal(gamma), logits, torch.tensor([0, 0, 2]), torch.ones(3), 0.25):
            assert tensor.isfinite().all()


@pytest.fixture
def traced(monkeypatch):
    """torch.compile as far as it needs no C++ compiler: kernels are traced and guarded, and run eagerly."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    class_sums._compiled.cache_clear()
    yield
    class_sums._compiled.cache_clear()


@pytest.mark.usefixtures("traced")
def test_a_third_image_size_compiles_nothing():
    """A kernel for each size would soon hit torch.compile's limit and fall back to one that holds [N, K] many times."""
    for n in (30, 50):
        rows_and_gradient(Focal(2.0), *candidates(n, 4), 0.25, compiled=True)
    with torch.compiler.set_stance("fail_on_recompile"):
        for n in (70, 40, 111):
            got = rows_and_gradient(Focal(2.0), *candidates(n, 4), 0.25, compiled=True)
            for a, b in zip(got, rows_and_gradient(Focal(2.0), *candidates(n, 4), 0.25), strict=True):
                assert_close(a, b, rtol=1e-12, atol=1e-15)

"""A candidate's classification loss with either kind of head; softmax against its equation and PyTorch's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from imbdet import class_sums
from imbdet.losses import (
    ClassificationLoss,
    CrossEntropy,
    Focal,
    FocalStar,
    softmax_cross_entropy,
    sum_over_classes,
)


def candidates(n, k, dtype=torch.float64, seed=0):
    """[n, k + 1] logits, labels from -1 (ignored) to k (background), and a gradient for each row."""
    random = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, k + 1, dtype=dtype, generator=random)
    return logits, torch.randint(-1, k + 1, (n,), generator=random), torch.rand(n, dtype=dtype, generator=random)


def rows_and_gradient(logits, label, grad):
    logits = logits.detach().clone().requires_grad_()
    rows = softmax_cross_entropy(logits, label)
    rows.backward(grad)
    return rows.detach(), logits.grad


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 12), st.integers(1, 6), st.integers(0, 1000))
def test_softmax_by_its_equation_and_by_pytorch(n, k, seed):
    """-log p_y with p = exp(x) / sum exp(x); dL/dx = p - 1 at the target, p elsewhere."""
    logits, label, grad = candidates(n, k, seed=seed)
    rows, gradient = rows_and_gradient(logits, label, grad)
    kept = label >= 0
    powers = np.exp(logits.numpy())
    p = torch.from_numpy(powers / powers.sum(1, keepdims=True))[kept]
    target = F.one_hot(label[kept], k + 1)
    assert_close(rows[kept], -torch.log((p * target).sum(1)), rtol=1e-9, atol=1e-12)
    assert_close(gradient[kept], grad[kept, None] * (p - target), rtol=1e-9, atol=1e-12)
    own = logits.requires_grad_()
    expected = F.cross_entropy(own[kept], label[kept], reduction="none")
    assert_close(rows[kept], expected)
    assert_close(gradient, torch.autograd.grad(expected, own, grad[kept])[0])


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), float("-inf")])
def test_ignored_rows_may_hold_anything(junk):
    logits, label, grad = candidates(30, 3)
    ignored = label == -1
    assert ignored.any()
    clean = rows_and_gradient(logits, label, grad)
    dirty = torch.where(ignored[:, None], junk, logits)
    rows, gradient = rows_and_gradient(dirty, label, torch.where(ignored, junk, grad))
    assert_close((rows, gradient), clean, rtol=0, atol=0)
    assert (rows[ignored] == 0).all()
    assert (gradient[ignored] == 0).all()


def test_only_ignored_rows_cost_nothing():
    rows, gradient = rows_and_gradient(torch.full((3, 4), torch.nan), torch.tensor([-1, -1, -1]), torch.ones(3))
    assert rows.tolist() == [0, 0, 0]
    assert (gradient == 0).all()


def test_saturated_logits_stay_finite():
    logits = torch.tensor([[100.0, -100.0, 0.0], [-100.0, 100.0, 100.0], [-100.0, -100.0, -100.0]])
    for label in (0, 1, 2):
        for tensor in rows_and_gradient(logits, torch.full((3,), label), torch.ones(3)):
            assert tensor.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted_and_its_gradient_is_half_again(dtype):
    logits, label, grad = candidates(20, 4, torch.float32)
    half = logits.to(dtype)
    rows, gradient = rows_and_gradient(half, label, grad)
    expected = rows_and_gradient(half.float(), label, grad)
    assert rows.dtype == torch.float32
    assert_close(rows, expected[0], rtol=0, atol=0)
    assert_close(gradient, expected[1].to(dtype), rtol=0, atol=0)


def test_a_common_shift_of_a_rows_logits_changes_nothing():
    logits, label, grad = candidates(20, 4)
    shifted = rows_and_gradient(logits + torch.linspace(-50, 50, 20, dtype=torch.float64)[:, None], label, grad)
    assert_close(shifted, rows_and_gradient(logits, label, grad), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("margin", [CrossEntropy(), Focal(2.0), FocalStar(2.0, 1.0)], ids=str)
def test_sigmoid_columns_are_summed_over_their_classes(margin, alpha):
    logits, label, _ = candidates(20, 3)
    rows = ClassificationLoss("sigmoid", margin, alpha)(logits[:, :3], label)
    assert_close(rows, sum_over_classes(margin, logits[:, :3], label, alpha), rtol=0, atol=0)


def test_softmax_columns_compete():
    logits, label, _ = candidates(20, 3)
    for margin in (CrossEntropy(), Focal(0.0)):
        assert_close(ClassificationLoss("softmax", margin, None)(logits, label), softmax_cross_entropy(logits, label))


def test_fused_kernels_are_for_sigmoid_columns(monkeypatch):
    asked = []
    monkeypatch.setattr(class_sums, "_compiled", lambda kernel: asked.append(kernel) or kernel)
    logits, label, _ = candidates(20, 3)
    for compiled in (False, True):
        ClassificationLoss("softmax", CrossEntropy(), None)(logits, label, compiled)
        assert not asked
    loss = ClassificationLoss("sigmoid", Focal(2.0), 0.25)
    plain = loss(logits[:, :3], label)
    assert not asked
    assert_close(loss(logits[:, :3], label, compiled=True), plain)
    assert asked


@pytest.mark.parametrize(
    ("margin", "alpha", "named"),
    [(Focal(2.0), None, r"alpha None, Focal\(gamma=2.0\)"), (CrossEntropy(), 0.5, r"alpha 0.5, CrossEntropy\(\)")],
)
def test_softmax_is_refused_with_another_loss_or_alpha(margin, alpha, named):
    with pytest.raises(ValueError, match=rf"^a softmax head has plain .* \(alpha null, gamma 0\), got {named}$"):
        ClassificationLoss("softmax", margin, alpha)

"""Every loss can be differentiated again: create_graph, torch.func and forward mode, as gradient penalties need it."""

from functools import partial

import plain_losses
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.autograd.functional import jacobian
from torch.func import grad, hessian, jacfwd, jacrev, vmap
from torch.testing import assert_close

from imbdet import class_sums
from imbdet.losses import (
    CrossEntropy,
    Focal,
    FocalStar,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    sigmoid_focal_star_loss,
    smooth_l1,
    softmax_cross_entropy,
    sum_over_classes,
)

GAMMAS = [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 5.0]
MARGINS = [CrossEntropy(), *map(Focal, GAMMAS), FocalStar(2.0, 1.0), FocalStar(4.0, 0.0)]
EVERY_MARGIN = pytest.mark.parametrize("margin", MARGINS, ids=str)
N, K = 6, 3
LABEL = torch.tensor([-1, 0, 1, K - 1, K, K])


def draw(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def logits():
    return (8 * draw(N, K) - 4).requires_grad_()


def elementwise(margin, alpha):
    """The public function that the margin stands for."""
    match margin:
        case CrossEntropy():
            return sigmoid_cross_entropy
        case Focal(gamma):
            return partial(sigmoid_focal_loss, alpha=alpha, gamma=gamma)
        case FocalStar(gamma, beta):
            return partial(sigmoid_focal_star_loss, alpha=alpha, gamma=gamma, beta=beta)


TARGETS = draw(N, K, seed=1)
# Functions of [N, K] logits alone.
LOSSES = {
    "cross entropy": lambda x: sigmoid_cross_entropy(x, TARGETS),
    "focal": lambda x: sigmoid_focal_loss(x, TARGETS, 0.25, 2.0),
    "focal of gamma .5": lambda x: sigmoid_focal_loss(x, TARGETS, None, 0.5),
    "FL*": lambda x: sigmoid_focal_star_loss(x, TARGETS, 0.25, 2.0, 1.0),
    "sum": lambda x: sum_over_classes(Focal(2.0), x, LABEL, 0.25),
    "sum of gamma .5": lambda x: sum_over_classes(Focal(0.5), x, LABEL, None),
    "softmax": lambda x: softmax_cross_entropy(x, LABEL.clamp(max=K - 1)),
    "smooth L1": lambda x: smooth_l1(x, TARGETS, 1.0),
}
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@EVERY_LOSS
def test_first_and_second_derivatives_equal_numeric_ones_in_both_modes(loss):
    x = logits()
    assert gradcheck(loss, (x,), check_forward_ad=True)
    assert gradgradcheck(loss, (x,), check_fwd_over_rev=True)


@EVERY_LOSS
def test_a_batch_of_gradients_is_a_loop_over_them(loss):
    x = logits()
    assert gradcheck(loss, (x,), check_batched_grad=True, check_forward_ad=True, check_batched_forward_grad=True)
    assert gradgradcheck(loss, (x,), check_batched_grad=True)
    assert_close(*(jacobian(loss, x, vectorize=vectorize) for vectorize in (False, True)), rtol=1e-14, atol=0)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rows", [0, N])
def test_gradients_of_the_sum_come_in_batches_and_with_tangents(monkeypatch, compiled, rows):
    """Neither needs a graph of the gradient; a second backward is as the first."""
    monkeypatch.setattr(class_sums, "_compiled", lambda kernel: kernel)
    x, grads = logits()[:rows], draw(SAMPLES, rows, seed=2)
    loss = partial(sum_over_classes, Focal(2.0), label=LABEL[:rows], alpha=0.25, compiled=compiled)
    result = loss(x)

    def gradient(grad, **options):
        return torch.autograd.grad(result, x, grad, retain_graph=True, **options)[0]

    batched = gradient(grads, is_grads_batched=True), vmap(gradient)(grads)
    expected = torch.stack([gradient(grad) for grad in grads])
    for got in batched:
        assert_close(got, expected, rtol=1e-14, atol=0)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach().requires_grad_(), draw(rows, K, seed=3))
        by_graph = [
            torch.autograd.grad(loss(dual).square().sum(), dual, create_graph=create_graph)[0]
            for create_graph in (False, True)
        ]
        assert_close(*(forward_ad.unpack_dual(first).tangent.detach() for first in by_graph), rtol=1e-14, atol=1e-16)


def penalty(function, x, weights):
    """Gradient of the weighted gradient: what a gradient penalty adds to a step."""
    (first,) = torch.autograd.grad((function(x) * weights).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first * draw(*x.shape, seed=3)).sum() + first.square().sum(), x)
    return first, second


@EVERY_MARGIN
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_the_double_gradient_is_that_of_the_plain_loss(margin, alpha):
    x = logits()
    alpha = None if margin == CrossEntropy() else alpha
    plain = partial(plain_losses.elementwise, margin, targets=TARGETS, alpha=alpha)
    own = partial(elementwise(margin, alpha), targets=TARGETS)
    assert_close(*(penalty(f, x, draw(N, K, seed=2)) for f in (own, plain)), rtol=1e-9, atol=1e-12)


@EVERY_MARGIN
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("junk", [0.0, float("nan"), float("inf")])
def test_the_double_gradient_of_the_sum_is_that_of_the_plain_one_whatever_ignored_rows_hold(
    monkeypatch, margin, compiled, junk
):
    monkeypatch.setattr(class_sums, "_compiled", lambda kernel: kernel)
    clean, ignored = logits().detach(), LABEL == -1
    weights = torch.where(ignored, 0.0, draw(N, seed=2))
    plain = partial(plain_losses.sum_over_classes, margin, label=LABEL, alpha=0.25)
    own = partial(sum_over_classes, margin, label=LABEL, alpha=0.25, compiled=compiled)
    dirty = torch.where(ignored[:, None], junk, clean), torch.where(ignored, junk, weights)
    expected = penalty(plain, clean.requires_grad_(), weights)
    assert_close(penalty(own, dirty[0].requires_grad_(), dirty[1]), expected, rtol=1e-9, atol=1e-12)


def test_a_plain_gradient_keeps_to_its_blocks(monkeypatch):
    """Only a gradient that is differentiated again may take the memory of all rows at once."""
    monkeypatch.setattr(class_sums, "_differentiable_slopes", lambda *_: pytest.fail("all rows at once"))
    x = logits()
    loss = sum_over_classes(Focal(2.0), x, LABEL, 0.25).sum()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    with pytest.raises(pytest.fail.Exception):
        torch.autograd.grad(loss, x, create_graph=True)
    monkeypatch.undo()
    assert_close(torch.autograd.grad(loss, x, create_graph=True)[0].detach(), first, rtol=1e-14, atol=0)


@EVERY_MARGIN
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_three_derivatives_are_finite_at_saturated_logits(margin, dtype):
    """Half-precision logits have gradients in half precision, in which these still are small numbers."""
    x = torch.tensor([[a, -a] for a in (0.0, 1e-3, 1.0, 15.0, 40.0, 88.0, 90.0, 100.0)]).repeat(3, 1).to(dtype)
    label = torch.arange(3).repeat_interleave(len(x) // 3)
    targets = torch.tensor([0.0, 0.3, 1.0])[label][:, None].expand_as(x)
    alpha = None if margin == CrossEntropy() else 0.25
    for loss in (lambda x: elementwise(margin, alpha)(x, targets), lambda x: sum_over_classes(margin, x, label, 0.25)):
        inputs = x.clone().requires_grad_()
        derivative = loss(inputs)
        for _ in range(3):
            (derivative,) = torch.autograd.grad(derivative.sum(), inputs, create_graph=True)
            assert derivative.dtype == dtype
            assert derivative.isfinite().all()


@EVERY_LOSS
def test_torch_func_agrees_with_autograd(loss):
    x = logits()

    def total(x):
        return loss(x).sum()

    (expected,) = torch.autograd.grad(total(x), x)
    x = x.detach()
    for transform in (grad, jacrev, jacfwd):
        assert_close(transform(total)(x), expected)
    second = torch.autograd.functional.hessian(total, x)
    for transform in (hessian, lambda f: jacrev(jacrev(f)), lambda f: jacfwd(jacfwd(f)), lambda f: jacrev(jacfwd(f))):
        assert_close(transform(total)(x), second)


SAMPLES, DIMS = 4, {"both": (0, 0), "logits alone": (0, None), "labels alone": (None, 0), "last dimension": (2, 1)}


@pytest.mark.parametrize("dims", DIMS.values(), ids=DIMS)
@pytest.mark.parametrize("compiled", [False, True])
def test_vmap_is_a_loop_over_samples(monkeypatch, dims, compiled):
    monkeypatch.setattr(class_sums, "_compiled", lambda kernel: kernel)

    def of_elements(x, label):
        return sigmoid_focal_loss(x, (label[:, None] == torch.arange(K)).double(), 0.25, 2.0).sum(1)

    def of_rows(x, label):
        return sum_over_classes(Focal(2.0), x, label, 0.25, compiled)

    x = 8 * draw(SAMPLES, N, K) - 4
    label = torch.stack([LABEL.roll(i) for i in range(SAMPLES)])
    pairs = [(x[0 if dims[0] is None else i], label[0 if dims[1] is None else i]) for i in range(SAMPLES)]
    inputs = tuple(t[0] if dim is None else t.movedim(0, dim) for t, dim in zip((x, label), dims, strict=True))
    for loss in (of_elements, of_rows):
        assert_close(vmap(loss, dims)(*inputs), torch.stack([loss(*pair) for pair in pairs]))
        first = grad(lambda x, label, loss=loss: loss(x, label).square().sum())
        assert_close(vmap(first, dims)(*inputs), torch.stack([first(*pair) for pair in pairs]))
        second = hessian(lambda x, label, loss=loss: loss(x, label).sum())
        assert_close(vmap(second, dims)(*inputs), torch.stack([second(*pair) for pair in pairs]))


def test_of_no_rows_there_is_nothing_to_differentiate():
    x = torch.zeros(0, K, dtype=torch.float64, requires_grad=True)
    label = LABEL[:0]
    (first,) = torch.autograd.grad(sum_over_classes(Focal(2.0), x, label, 0.25).sum(), x, create_graph=True)
    assert torch.autograd.grad(first.sum(), x)[0].shape == (0, K)
    assert vmap(lambda x: sum_over_classes(Focal(2.0), x, label, 0.25))(x.expand(2, 0, K)).shape == (2, 0)


@EVERY_LOSS
def test_torch_compile_takes_each_loss_whole(loss):
    torch.compiler.reset()
    x = logits()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    (got,), (expected,) = (torch.autograd.grad(f(x).sum(), x) for f in (compiled, loss))
    assert_close(got, expected)

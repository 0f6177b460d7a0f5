"""Values and gradients of the losses equal the reference files, in every form that the library computes them."""

import json

import pytest
import torch
from compiler import torch_compile_works
from torch.testing import assert_close

from imbdet.losses import (
    Focal,
    FocalStar,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    sigmoid_focal_star_loss,
    sum_over_classes,
)

FILES = ("sigmoid_focal_loss", "fl_star")
# The references take log p and 1 - p of a rounded p, so their smallest numbers are right to 1e-16 only.
TOLERANCES = {torch.float64: {"rtol": 1e-9, "atol": 1e-14}, torch.float32: {"rtol": 1e-5, "atol": 1e-6}}
PRECISIONS = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


def read(folder, name):
    cases = json.loads((folder / f"{name}.json").read_text())["cases"]
    assert cases
    return cases


def alpha_of(case):
    """The references write -1 for no alpha."""
    return None if case["alpha"] is None or case["alpha"] < 0 else case["alpha"]


def tensors_of(case, dtype):
    """Logits that want a gradient, targets, and the expected values and gradients."""
    names = ("logits", "targets", "elementwise", "grad_of_sum")
    logits, targets, values, grads = (torch.tensor(case[name], dtype=dtype) for name in names)
    return logits.requires_grad_(), targets, values, grads


def label_of(targets):
    """[N, K] one-hot rows to [N] labels, K where a row has no target."""
    return torch.where(targets.any(1), targets.argmax(1), targets.shape[1])


def elementwise(name, case, logits, targets):
    if name == "fl_star":
        return sigmoid_focal_star_loss(logits, targets, alpha_of(case), case["gamma"], case["beta"])
    return sigmoid_focal_loss(logits, targets, alpha_of(case), case["gamma"])


def loss_of(name, case):
    return FocalStar(case["gamma"], case["beta"]) if name == "fl_star" else Focal(case["gamma"])


def assert_rows_and_gradient(name, case, dtype, compiled):
    logits, targets, values, grads = tensors_of(case, dtype)
    rows = sum_over_classes(loss_of(name, case), logits, label_of(targets), alpha_of(case), compiled)
    assert_close(rows, values.sum(1), **TOLERANCES[dtype])
    rows.sum().backward()
    assert_close(logits.grad, grads, **TOLERANCES[dtype])


@PRECISIONS
@pytest.mark.parametrize("name", FILES)
def test_elementwise_losses_and_gradients(vectors, name, dtype):
    for case in read(vectors, name):
        logits, targets, values, grads = tensors_of(case, dtype)
        losses = elementwise(name, case, logits, targets)
        assert_close(losses, values, **TOLERANCES[dtype])
        losses.sum().backward()
        assert_close(logits.grad, grads, **TOLERANCES[dtype])


@PRECISIONS
@pytest.mark.parametrize("name", FILES)
def test_sums_over_classes_and_gradients(vectors, name, dtype):
    for case in read(vectors, name):
        assert_rows_and_gradient(name, case, dtype, compiled=False)


@PRECISIONS
@pytest.mark.parametrize("name", FILES)
def test_cross_entropy_is_what_the_references_reduce_to(vectors, name, dtype):
    """gamma 0 of the focal loss, gamma 1 and beta 0 of FL*, with alpha as a factor."""
    neutral = {"gamma": 1.0, "beta": 0.0} if name == "fl_star" else {"gamma": 0.0}
    for case in read(vectors, name):
        if any(case[key] != value for key, value in neutral.items()):
            continue
        logits, targets, values, grads = tensors_of(case, dtype)
        alpha = alpha_of(case)
        factor = 1.0 if alpha is None else alpha * targets + (1 - alpha) * (1 - targets)
        losses = factor * sigmoid_cross_entropy(logits, targets)
        assert_close(losses, values, **TOLERANCES[dtype])
        losses.sum().backward()
        assert_close(logits.grad, grads, **TOLERANCES[dtype])


def test_fused_kernels_give_the_same_or_nothing(vectors):
    """Where torch.compile works, its kernels equal the reference; where it does not, it says so."""
    torch.compiler.reset()
    name = FILES[0]
    case = read(vectors, name)[0]
    if torch_compile_works():
        assert_rows_and_gradient(name, case, torch.float32, compiled=True)
    else:
        with pytest.raises(RuntimeError):
            assert_rows_and_gradient(name, case, torch.float32, compiled=True)


def test_the_eager_path_needs_no_compiler(vectors, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("the eager path compiled something"))
    for name in FILES:
        for case in read(vectors, name):
            assert_rows_and_gradient(name, case, torch.float64, compiled=False)

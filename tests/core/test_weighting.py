"""Laws of the functions that turn weights into others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from imbdet.weighting import keep_total

NUMBERS = st.floats(1e-3, 1e3)
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans()), min_size=1, max_size=20)


def columns(rows):
    weight, loss, chosen = zip(*rows, strict=True)
    return torch.tensor(weight).double(), torch.tensor(loss).double(), torch.tensor(chosen)


@settings(deadline=None)
@given(ROWS)
def test_the_total_is_kept_and_so_are_ratios_of_weights(rows):
    weight, loss, chosen = columns(rows)
    kept = keep_total(weight, loss, chosen)
    assert_close((kept * loss)[chosen].sum(), loss[chosen].sum())
    assert (kept[~chosen] == 1).all()
    ratio = (kept / weight)[chosen]
    assert_close(ratio, ratio[:1].expand_as(ratio))


@settings(deadline=None)
@given(ROWS, NUMBERS)
def test_the_scale_of_weights_does_not_matter(rows, factor):
    weight, loss, chosen = columns(rows)
    assert_close(keep_total(factor * weight, loss, chosen), keep_total(weight, loss, chosen))


def test_what_other_rows_hold_does_not_matter():
    weight, loss = torch.tensor([1.0, float("nan"), 3.0]), torch.tensor([2.0, float("nan"), 5.0])
    kept = keep_total(weight, loss, torch.tensor([True, False, True]))
    assert_close(kept, torch.tensor([7 / 17, 1, 21 / 17]))


@pytest.mark.parametrize(("weight", "loss"), [([2.0, 3.0], [0.0, 0.0]), ([0.0, 0.0], [2.0, 3.0])])
def test_without_a_weighted_total_weights_stay(weight, loss):
    kept = keep_total(torch.tensor(weight), torch.tensor(loss), torch.tensor([True, True]))
    assert kept.tolist() == weight
    nowhere = keep_total(torch.tensor(weight), torch.tensor(loss), torch.tensor([False, False]))
    assert nowhere.tolist() == [1, 1]


def test_weights_have_no_gradient():
    loss = torch.tensor([1.0, 2.0], requires_grad=True)
    rows = torch.tensor([True, True])
    assert not keep_total(2 * loss, loss, rows).requires_grad
    for derivative in (torch.func.jacrev, torch.func.jacfwd):
        for function in (lambda x: keep_total(x, loss, rows), lambda x: keep_total(loss, x, rows)):
            assert (derivative(function)(loss.detach()) == 0).all()


def test_totals_are_those_of_all_processes(monkeypatch):
    """Two halves, each told what the other adds to its sums, get the weights of the whole."""
    weight, loss = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([4.0, 1.0, 1.0, 2.0])
    chosen = torch.tensor([True, False, True, True])
    whole = keep_total(weight, loss, chosen)
    halves = []
    for own, other in ((slice(0, 2), slice(2, 4)), (slice(2, 4), slice(0, 2))):
        there = torch.where(chosen[other], torch.stack([loss[other], weight[other] * loss[other]]), 0.0).sum(1)
        monkeypatch.setattr("imbdet.weighting.total", lambda sums, there=there: sums + there)
        halves.append(keep_total(weight[own], loss[own], chosen[own]))
    assert_close(torch.cat(halves), whole)

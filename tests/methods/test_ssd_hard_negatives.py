"""SSD's hard negatives and their losses against plain loops; softmax cross entropy where all negatives are kept."""

from dataclasses import replace

import focal_reference
import ohem_reference as reference
import pytest
import torch
from batches import arrays, losses_and_gradients, make_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from ohem_cases import UNUSUAL, random_samples, rows_of
from torch.testing import assert_close

from imbdet.errors import UserError
from imbdet.methods import build_method
from imbdet.normalizers import NORMALIZERS

COMMON = {"normalizer": "batch", "box_beta": 1.0}
SPEC = {"name": "ssd_hard_negatives", "negatives_per_positive": 3.0, **COMMON}
PLAIN = {"name": "cross_entropy", "activation": "softmax", "alpha": None, "prior_prob": None, **COMMON}
SOFTMAX = {"activation": "softmax"}


def selected(spec, samples):
    return build_method(spec).inspect(samples)["selected"] > 0


def assert_reference(spec, samples):
    batch = arrays(samples)
    rows = focal_reference.softmax_rows(batch)
    chosen = reference.ssd(batch, rows, spec["negatives_per_positive"])
    assert rows_of(selected(spec, samples)) == chosen
    kept_rows = [row if i in chosen else 0 for i, row in enumerate(rows)]
    only = reference.only(batch, chosen)
    expected = focal_reference.losses(only, kept_rows, spec["box_beta"], spec["normalizer"])
    losses, gradients = losses_and_gradients(build_method(spec), samples)
    assert_close({name: loss.item() for name, loss in losses.items()}, expected, rtol=1e-6, atol=1e-12)
    assert all(gradient.isfinite().all() for gradient in gradients)
    return losses, gradients


@given(seed=st.integers(0, 10**6), ratio=st.sampled_from([0.5, 1.5, 3.0, 4.0]), images=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_any_batch(seed, ratio, images):
    assert_reference(SPEC | {"negatives_per_positive": ratio}, random_samples("dense", seed, 60, images, **SOFTMAX))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("options", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_batches(normalizer, options):
    assert_reference(SPEC | {"normalizer": normalizer}, random_samples("dense", 4, **SOFTMAX, **options))


@pytest.mark.parametrize("label", [[3, 3, -1, 3], [-1, -1]], ids=["background", "ignored"])
def test_without_positives_there_is_no_loss(label):
    losses, gradients = assert_reference(SPEC, make_samples("dense", label=label, **SOFTMAX))
    assert all(loss == 0 for loss in losses.values())
    assert all((gradient == 0).all() for gradient in gradients)


def test_negatives_are_mined_in_each_image():
    """The second image's negatives are the harder ones, but it has no positive to pay for them."""
    samples = make_samples("dense", label=[0, 3, 3, 3, 3, 3] + [3] * 6, **SOFTMAX)
    hard = torch.where((samples.image_id == 1)[:, None], torch.tensor([9.0, 0, 0, 0]).double(), samples.logits)
    _, (gradient, _) = losses_and_gradients(build_method(SPEC), replace(samples, logits=hard))
    assert (gradient != 0).any(1).tolist().count(True) == 4
    assert (gradient[samples.image_id == 1] == 0).all()


def test_of_the_selected_it_is_cross_entropy():
    """Negatives left out get no gradient, and the selection adds none to those selected."""
    samples = random_samples("dense", 5, rows=60, **SOFTMAX)
    spec = SPEC | {"negatives_per_positive": 1.0}
    chosen = selected(spec, samples)
    assert 0 < chosen.sum() < (samples.label >= 0).sum()
    alone = replace(samples, label=torch.where(chosen, samples.label, -1))
    losses, gradients = losses_and_gradients(build_method(spec), samples)
    assert_close((losses, gradients), losses_and_gradients(build_method(PLAIN), alone))
    assert (gradients[0][~chosen] == 0).all()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_with_all_negatives_it_is_cross_entropy(normalizer):
    samples, by = random_samples("dense", 6, **SOFTMAX), {"normalizer": normalizer}
    method = build_method(SPEC | by | {"negatives_per_positive": 1e9})
    assert_close(losses_and_gradients(method, samples), losses_and_gradients(build_method(PLAIN | by), samples))


def test_the_order_of_rows_does_not_matter():
    samples = random_samples("dense", 7, rows=60, **SOFTMAX)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    names = ("logits", "deltas", "priors", "label", "gt_id", "image_id", "weight")
    permuted = replace(samples, **{name: getattr(samples, name)[order] for name in names})
    assert_close(selected(SPEC, permuted), selected(SPEC, samples)[order])


def test_wrong_parameters_are_refused():
    with pytest.raises(UserError, match=r"negatives_per_positive: .*greater than 0, got 0"):
        build_method(SPEC | {"negatives_per_positive": 0})

"""OHEM on anchors against plain loops and NMS over all anchors; what it is where it selects everything."""

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
from imbdet.methods import build_method, ohem_dense
from imbdet.normalizers import NORMALIZERS

COMMON = {"prior_prob": 0.01, "normalizer": "sampled", "box_beta": 0.11}
SPEC = {"name": "ohem_dense", "per_image": 8, "nms_iou": 0.3, "one_to_three": False, **COMMON}
PLAIN = {"name": "cross_entropy", "activation": "sigmoid", "alpha": None, **COMMON}
RATIO = pytest.mark.parametrize("one_to_three", [False, True], ids=["hardest", "1:3"])
NMS = pytest.mark.parametrize("nms_iou", [None, 0.0, 0.2, 0.5, 1.0])


def selected(spec, samples):
    return build_method(spec).inspect(samples)["selected"] > 0


def reference_rows(samples):
    batch = arrays(samples)
    return batch, focal_reference.sigmoid_rows(batch, focal_reference.cross_entropy, None)


def expected_rows(spec, samples):
    batch, losses = reference_rows(samples)
    return reference.ohem_dense(batch, losses, spec["per_image"], spec["nms_iou"], spec["one_to_three"])


@pytest.fixture
def tries(monkeypatch):
    """Numbers of anchors in each call of NMS, of which the first gets as few as are wanted."""
    numbers, original = [], ohem_dense.left_in_groups

    def watched(boxes, key, group, member, iou):
        numbers.append(int(member.sum()))
        return original(boxes, key, group, member, iou)

    monkeypatch.setattr(ohem_dense, "left_in_groups", watched)
    monkeypatch.setattr(ohem_dense, "FIRST_TRIED", 1)
    return numbers


@RATIO
@NMS
@pytest.mark.parametrize(("seed", "per_image"), [(1, 4), (2, 11), (3, 100)])
def test_the_hardest_are_selected(one_to_three, nms_iou, seed, per_image):
    samples = random_samples("dense", seed, rows=150, images=3)
    spec = SPEC | {"one_to_three": one_to_three, "nms_iou": nms_iou, "per_image": per_image}
    assert rows_of(selected(spec, samples)) == expected_rows(spec, samples)


@RATIO
@pytest.mark.parametrize("seed", range(8))
def test_trying_the_hardest_first_is_nms_over_all(one_to_three, seed, tries):
    samples = random_samples("dense", seed, rows=240, images=3)
    spec = SPEC | {"one_to_three": one_to_three, "nms_iou": 0.2}
    assert rows_of(selected(spec, samples)) == expected_rows(spec, samples)
    assert len(tries) > 1


@RATIO
@given(seed=st.integers(0, 10**6), per_image=st.integers(4, 12), nms_iou=st.floats(0, 0.6), images=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_any_batch(one_to_three, seed, per_image, nms_iou, images):
    samples = random_samples("dense", seed, rows=80, images=images)
    spec = SPEC | {"one_to_three": one_to_three, "per_image": per_image, "nms_iou": nms_iou}
    assert rows_of(selected(spec, samples)) == expected_rows(spec, samples)


def anchors_in_a_row(losses, label, places):
    """Samples of one image and class with anchors of 10 pixels at ``places``, which overlap where closer than 5."""
    samples = make_samples("dense", label=label, num_classes=1, images=1)
    left = torch.tensor(places, dtype=torch.float64)[:, None]
    logits = torch.tensor(losses, dtype=torch.float64).expm1().log()
    logits = torch.where(samples.foreground, -logits, logits)
    boxes = torch.cat([left, 0 * left, left + 10, 0 * left + 10], 1)
    return replace(samples, priors=boxes, logits=logits[:, None])


EASY = {
    # The positive is the easiest of all and overlaps, among others, ...
    "nothing": ([0, 30, 60, 90, 120, 150, 180, 210], [7, 0, 1, 2]),
    "one of the hardest": ([0, 30, 60, 90, 120, 150, 180, 1], []),
    "one of the others": ([0, 30, 60, 90, 120, 150, 180, 181], []),
    "one that overlaps one of the hardest": ([0, 30, 60, 90, 120, 150, 3, 6], [7, 0, 1, 2]),
    "one that overlaps one of the others": ([0, 30, 60, 90, 120, 150, 153, 156], [7, 0, 1, 2]),
}


@pytest.mark.parametrize(("places", "expected"), EASY.values(), ids=EASY)
def test_an_easy_positive(places, expected, tries):
    samples = anchors_in_a_row([8, 7, 6, 5, 4, 3, 2, 1], [1] * 7 + [0], places)
    spec = SPEC | {"per_image": 4, "one_to_three": True, "nms_iou": 1 / 3}
    assert rows_of(selected(spec, samples)) == sorted(expected)
    # Where one of the hardest settles it, no more anchors are tried.
    assert tries == [5] if places[7] == 1 else len(tries) > 1


def test_easy_positives_do_not_matter_where_there_are_enough(tries):
    samples = anchors_in_a_row([8, 7, 6, 5, 4, 3, 2, 1], [0] + [1] * 6 + [0], [0, 30, 60, 90, 120, 150, 180, 210])
    assert rows_of(selected(SPEC | {"per_image": 4, "one_to_three": True}, samples)) == [0, 1, 2, 3]
    assert tries == [5]


def test_images_that_have_enough_are_not_tried_again(tries):
    """All anchors of the second image lie on each other."""
    samples = make_samples("dense", label=[3] * 40)
    apart = 30.0 * torch.arange(40).double()[:, None]
    corner = torch.where((samples.image_id == 0)[:, None], apart, 0.0).expand(-1, 2)
    samples = replace(samples, priors=torch.cat([corner, corner + 20], 1))
    assert selected(SPEC, samples).sum() == 8 + 1
    assert tries == [16, 16, 20]


@RATIO
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("options", UNUSUAL.values(), ids=UNUSUAL)
def test_losses_and_unusual_batches(one_to_three, normalizer, options):
    samples = random_samples("dense", seed=4, **options)
    batch, rows = reference_rows(samples)
    spec = SPEC | {"one_to_three": one_to_three, "per_image": 4, "normalizer": normalizer}
    chosen = expected_rows(spec, samples)
    kept_rows = [row if i in chosen else 0 for i, row in enumerate(rows)]
    expected = focal_reference.losses(reference.only(batch, chosen), kept_rows, COMMON["box_beta"], normalizer)
    losses, gradients = losses_and_gradients(build_method(spec), samples)
    assert_close({name: loss.item() for name, loss in losses.items()}, expected, rtol=1e-6, atol=1e-12)
    assert all(gradient.isfinite().all() for gradient in gradients)


@RATIO
def test_of_the_selected_it_is_cross_entropy(one_to_three):
    """Anchors left out get no gradient, and the selection adds none to those selected."""
    samples = random_samples("dense", 5, rows=60)
    spec = SPEC | {"one_to_three": one_to_three}
    chosen = selected(spec, samples)
    assert 0 < chosen.sum() < (samples.label >= 0).sum()
    alone = replace(samples, label=torch.where(chosen, samples.label, -1))
    losses, gradients = losses_and_gradients(build_method(spec), samples)
    assert_close((losses, gradients), losses_and_gradients(build_method(PLAIN), alone))
    assert (gradients[0][~chosen] == 0).all()
    assert (gradients[0][chosen] != 0).all()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("nms_iou", [None, 1.0])
def test_all_anchors_without_nms_are_cross_entropy(normalizer, nms_iou):
    samples = random_samples("dense", 6)
    by = {"normalizer": normalizer}
    method = build_method(SPEC | by | {"per_image": len(samples.label), "nms_iou": nms_iou})
    assert_close(losses_and_gradients(method, samples), losses_and_gradients(build_method(PLAIN | by), samples))


def test_ignored_anchors_suppress_nothing():
    samples = make_samples("dense", label=[-1, 3, -1, 3])
    junk = torch.where((samples.label == -1)[:, None], torch.inf, samples.logits)
    samples = replace(samples, priors=samples.priors[:1].expand(4, 4), logits=junk)
    assert rows_of(selected(SPEC, samples)) == [1, 3]


@RATIO
def test_the_order_of_rows_does_not_matter(one_to_three):
    samples = random_samples("dense", 7, rows=60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    names = ("logits", "deltas", "priors", "label", "gt_id", "image_id", "weight")
    permuted = replace(samples, **{name: getattr(samples, name)[order] for name in names})
    spec = SPEC | {"one_to_three": one_to_three}
    assert_close(selected(spec, permuted), selected(spec, samples)[order])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"per_image": 0}, "per_image"),
        ({"nms_iou": -0.1}, "nms_iou"),
        ({"one_to_three": 3}, "one_to_three"),
        ({"one_to_three": True, "per_image": 3}, "at least 4, got 3"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        build_method(SPEC | wrong)

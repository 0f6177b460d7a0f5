"""Noisy anchors equals its slow reference, keeps what it promises to keep, and stays finite."""

from dataclasses import replace

import noisy_anchors_reference as slow
import numpy as np
import pytest
import torch
from batches import ROWS, losses_and_gradients, make_samples
from torch.testing import assert_close

from imbdet.assigners import BACKGROUND, FOREGROUND, IGNORED, Truth
from imbdet.errors import UserError
from imbdet.methods import build_method
from imbdet.methods.noisy_anchors import TopNAssigner

SPEC = {
    "name": "noisy_anchors",
    "variant": "code",
    "top_n": 30,
    "localization_share": 0.75,
    "alpha": 0.5,
    "gamma": 2.0,
    "prior_prob": 0.01,
    "normalizer": "batch",
    "box_beta": 0.1,
}
VARIANTS = pytest.mark.parametrize("variant", ["paper", "code"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
LABELS = {
    "every kind": None,
    "an image without foreground": [0, 1, -1, 3, 3, 3, -1, 3],
    "one foreground row": [3, 3, 1, 3, 3, 3, -1, 3],
    "no foreground": [3, 3, -1, 3],
    "all ignored": [-1, -1, -1, -1],
}


def build(**changes):
    return build_method({**SPEC, **changes})


def shared(samples, seed=0):
    """Some foreground rows were picked by several boxes, and rows have weights of their own."""
    random = torch.Generator().manual_seed(seed)
    picked = torch.randint(1, 4, samples.label.shape, generator=random).to(samples.weight.dtype)
    weight = 0.5 + torch.rand(samples.label.shape, generator=random).to(samples.weight.dtype)
    return replace(samples, multiplicity=torch.where(samples.foreground, picked, 1.0), weight=weight)


def arrays(samples):
    """The batch as the reference reads it."""
    names = ("priors", "label", "gt_id", "image_id", "weight", "multiplicity", "gt_boxes")
    known = {name: getattr(samples, name).numpy() for name in names}
    return {**known, "logits": samples.logits.double().numpy(), "deltas": samples.deltas[:, 0].double().numpy()}


def settings_of(method):
    names = ("variant", "share", "alpha", "gamma", "box_beta")
    return {name: getattr(method, name) for name in names}


# The assigner


def truth_of(boxes, ignore=(), dtype=torch.float64):
    """Boxes of each image, all of class 0, and regions to ignore of the first."""
    flat = [box for of_image in boxes for box in of_image]
    images = [i for i, of_image in enumerate(boxes) for _ in of_image]
    return Truth(
        boxes=torch.tensor(flat, dtype=dtype).reshape(-1, 4),
        labels=torch.zeros(len(flat), dtype=torch.int64),
        images=torch.tensor(images, dtype=torch.int64),
        ignore_boxes=torch.tensor(ignore, dtype=dtype).reshape(-1, 4),
        ignore_images=torch.zeros(len(ignore), dtype=torch.int64),
        num_images=len(boxes),
    )


def grid(side=64, stride=8, size=12.0):
    """Square anchors on a grid: with boxes in line with it, equal overlaps are many."""
    centres = torch.arange(stride / 2, side, stride, dtype=torch.float64)
    x, y = torch.meshgrid(centres, centres, indexing="xy")
    return torch.stack([x - size / 2, y - size / 2, x + size / 2, y + size / 2], -1).reshape(-1, 4)


SCENES = {
    "boxes apart": [[[2.0, 3, 20, 22]], [[30.0, 30, 50, 61], [5.0, 40, 25, 60]]],
    "an anchor that two boxes pick": [[[10.0, 10, 30, 30], [12.0, 11, 32, 30], [11.0, 9, 29, 33]]],
    "fewer overlaps than number": [[[15.0, 15, 17, 17]], [[10.0, 10, 30, 30]]],
    "equal overlaps": [[[8.0, 8, 40, 40]], [[16.0, 16, 32, 32], [16.0, 32, 32, 48]]],
    "an image without boxes": [[], [[10.0, 10, 30, 30]], []],
    "no boxes": [[], []],
    "a box outside the grid and one of no area": [[[400.0, 400, 420, 420], [20.0, 20, 20, 20]], [[5.0, 5, 40, 50]]],
}


@pytest.mark.parametrize("number", [1, 5, 1000])
@pytest.mark.parametrize("boxes", SCENES.values(), ids=SCENES)
def test_assigner_equals_the_reference(boxes, number):
    anchors = grid()
    matches = TopNAssigner(number)(anchors, truth_of(boxes))
    first = 0
    for image, of_image in enumerate(boxes):
        times, own = slow.top_n(anchors.numpy(), of_image, number)
        assert matches.status[image].tolist() == [FOREGROUND if t else BACKGROUND for t in times]
        assert matches.multiplicity[image].tolist() == [max(t, 1) for t in times]
        picked = [a for a, t in enumerate(times) if t]
        assert matches.gt_id[image, picked].tolist() == [first + own[a] for a in picked]
        first += len(of_image)


def test_scenes_hold_what_their_names_say():
    anchors = grid()

    def assign(name):
        return TopNAssigner(5)(anchors, truth_of(SCENES[name]))

    assert assign("an anchor that two boxes pick").multiplicity.max() > 1
    assert 0 < (assign("fewer overlaps than number").status[0] == FOREGROUND).sum() < 5
    assert (assign("a box outside the grid and one of no area").status[0] == BACKGROUND).all()
    assert (assign("an image without boxes").gt_id[0] == -1).all()


@pytest.mark.parametrize("seed", range(5))
def test_assigner_on_random_scenes(seed):
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 40, (60, 2))
    anchors = np.concatenate([corner, corner + random.uniform(4, 24, (60, 2))], 1)
    boxes = [[[x, y, x + w, y + h] for x, y, w, h in random.uniform(3, 30, (count, 4))] for count in (4, 0, 7)]
    matches = TopNAssigner(6)(torch.tensor(anchors), truth_of(boxes))
    for image, of_image in enumerate(boxes):
        times, _ = slow.top_n(anchors, of_image, 6)
        assert (matches.multiplicity[image] * (matches.status[image] == FOREGROUND)).tolist() == times


def test_regions_to_ignore_leave_the_foreground():
    anchors = grid()
    truth = truth_of([[[10.0, 10, 30, 30]], []], ignore=[[0.0, 0, 64, 30]])
    ignoring = TopNAssigner(5)(anchors, truth)
    plain = TopNAssigner(5)(anchors, replace(truth, ignore_boxes=torch.zeros_like(truth.ignore_boxes)))
    assert ((plain.status == FOREGROUND) == (ignoring.status == FOREGROUND)).all()
    inside = (anchors[:, 3] <= 30) & (anchors[:, 1] >= 0) & (anchors[:, 0] >= 0) & (anchors[:, 2] <= 64)
    assert (ignoring.status[0, inside & (plain.status[0] == BACKGROUND)] == IGNORED).all()
    assert (ignoring.status[1] == BACKGROUND).all()


# Labels, weights and losses


@VARIANTS
@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("seed", [1, 2])
def test_labels_and_weights_equal_the_reference(variant, label, seed):
    method = build(variant=variant)
    samples = shared(make_samples("dense", label, seed=seed), seed)
    shown = method.inspect(samples)
    batch, settings = arrays(samples), settings_of(method)
    for name, expected in slow.quality(batch, settings).items():
        assert_close(shown[name], torch.tensor(expected), rtol=1e-9, atol=1e-12, msg=name)
    _, class_weight, box_weight = slow.constants(batch, settings)
    kept, foreground = samples.label >= 0, samples.foreground
    assert_close(shown["class_weight"][kept], torch.tensor(class_weight)[kept])
    assert_close(shown["box_weight"][foreground], torch.tensor(box_weight)[foreground])
    assert (shown["box_weight"][~foreground] == 1).all()
    assert not any(values.requires_grad for values in shown.values())


@VARIANTS
@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-6), (torch.float32, 1e-3)], ids=["fp64", "fp32"])
def test_losses_and_gradients_equal_the_reference(variant, label, dtype, rtol):
    """The reference differentiates with labels and weights fixed: a gradient through them would show."""
    method = build(variant=variant, alpha=0.25, gamma=1.5)
    samples = shared(make_samples("dense", label, dtype=dtype))
    losses, (logit_grads, delta_grads) = losses_and_gradients(method, samples)
    batch, settings = arrays(samples), settings_of(method)
    divisor = max(int(samples.foreground.sum()), 1)
    classification, box_regression = slow.losses(batch, settings, divisor, slow.constants(batch, settings))
    assert losses["classification"].item() == pytest.approx(classification, rel=rtol)
    assert losses["box_regression"].item() == pytest.approx(box_regression, rel=rtol)
    expected_logits, expected_deltas = slow.gradients(batch, settings, divisor)
    assert_close(logit_grads.double(), torch.tensor(expected_logits), rtol=rtol, atol=1e-6)
    assert_close(delta_grads[:, 0].double(), torch.tensor(expected_deltas), rtol=rtol, atol=1e-6)


@VARIANTS
def test_one_class(variant):
    method = build(variant=variant)
    samples = shared(make_samples("dense", [0, 1, 0, 1, 1, 0, -1, 1], num_classes=1))
    losses, _ = losses_and_gradients(method, samples)
    batch, settings = arrays(samples), settings_of(method)
    divisor = int(samples.foreground.sum())
    expected = slow.losses(batch, settings, divisor, slow.constants(batch, settings))
    assert [losses["classification"].item(), losses["box_regression"].item()] == pytest.approx(expected)


def test_an_anchor_counts_as_often_as_it_was_picked():
    samples = make_samples("dense", [0, 0, 3, 1], images=1)
    twice = replace(samples, multiplicity=torch.tensor([2.0, 1, 1, 1], dtype=torch.float64))
    loc = samples.predicted_iou
    shown, plain = build().inspect(twice)["soft_label"], build().inspect(samples)["soft_label"]
    assert shown[samples.foreground].min() == pytest.approx(((2 * loc[0] + loc[1] + loc[3]) / 4).item())
    assert plain[samples.foreground].min() == pytest.approx((loc.sum() / 3).item())


# Identities

FOCAL = {"name": "focal", **{key: SPEC[key] for key in ("alpha", "gamma", "prior_prob", "normalizer", "box_beta")}}


def exact(samples):
    """Predictions equal to the boxes."""
    return replace(samples, deltas=samples.delta_targets[:, None])


@VARIANTS
def test_anchors_that_are_all_clean_leave_focal_loss(variant):
    """IoUs of 1: soft labels and weights are 1, whatever the scores, where only localisation counts."""
    samples = exact(make_samples("dense"))
    focal = build_method(FOCAL)
    method = build(variant=variant, localization_share=1.0)
    shown = method.inspect(samples)
    assert_close(shown["soft_label"], samples.foreground.double())
    assert_close(shown["class_weight"], torch.ones_like(samples.weight))
    assert_close(losses_and_gradients(method, samples), losses_and_gradients(focal, samples))


@VARIANTS
def test_weights_keep_the_value_of_both_losses_and_change_gradients(variant):
    samples = shared(make_samples("dense"))
    method, divisor = build(variant=variant), samples.foreground.sum()
    losses, (_, delta_grads) = losses_and_gradients(method, samples)
    class_rows = method.class_rows(samples, method.inspect(samples)["soft_label"])
    assert_close(losses["classification"], (samples.weight * class_rows).sum() / divisor)
    assert_close(losses["box_regression"], (samples.weight * method.box_rows(samples)).sum() / divisor)
    focal = build_method(FOCAL)
    plain, (_, plain_grads) = losses_and_gradients(focal, samples)
    assert_close(losses["box_regression"], plain["box_regression"])
    assert (delta_grads[samples.foreground] - plain_grads[samples.foreground]).abs().max() > 1e-3


def test_soft_labels_of_the_code_lie_between_mean_iou_and_one():
    samples = make_samples("dense", [0, 1, 2, 0, 0, 1, 2, 3])
    shown = build().inspect(samples)
    for image in range(2):
        rows = samples.foreground & (samples.image_id == image)
        labels = shown["soft_label"][rows]
        assert labels.max().item() == pytest.approx(1)
        assert labels.min().item() == pytest.approx(samples.predicted_iou[rows].mean().item())
        assert labels.argmax() == shown["cleanliness"][rows].argmax()


# Awkward numbers


@VARIANTS
@DTYPES
@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_saturated_logits(variant, dtype, logit):
    """Scores of 0 or 1 and IoUs of 1 or 0: nothing is divided by zero."""
    samples = make_samples("dense", dtype=dtype)
    samples = replace(samples, logits=torch.full_like(samples.logits, logit))
    far = replace(samples, deltas=torch.full_like(samples.deltas, 50.0))
    right = replace(samples, deltas=samples.delta_targets[:, None].to(dtype))
    for awkward in (samples, far, right):
        method = build(variant=variant)
        losses, gradients = losses_and_gradients(method, awkward)
        assert all(gradient.isfinite().all() for gradient in gradients)
        batch, settings = arrays(awkward), settings_of(method)
        divisor = int(samples.foreground.sum())
        expected = slow.losses(batch, settings, divisor, slow.constants(batch, settings))
        tolerance = {"rel": 1e-3, "abs": 1e-3}
        assert [losses["classification"].item(), losses["box_regression"].item()] == pytest.approx(
            expected, **tolerance
        )


@VARIANTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_promoted(variant, dtype):
    half = make_samples("dense", dtype=dtype)
    full = replace(half, logits=half.logits.float(), deltas=half.deltas.float())
    losses, gradients = losses_and_gradients(build(variant=variant), half)
    full_losses, full_gradients = losses_and_gradients(build(variant=variant), full)
    assert_close(losses, full_losses)
    for gradient, other in zip(gradients, full_gradients, strict=True):
        assert_close(gradient.float(), other, rtol=2e-2, atol=1e-3)


def test_equally_clean_anchors_get_the_lower_end():
    samples = make_samples("dense", [0, 0, 3, 3], images=1)
    samples = replace(samples, **{name: getattr(samples, name)[[0, 0, 2, 3]] for name in ROWS})
    shown = build().inspect(samples)
    assert_close(shown["soft_label"][:2], samples.predicted_iou[:2])
    assert_close(shown["reweight"], torch.ones_like(samples.weight))


@VARIANTS
@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
def test_what_ignored_rows_hold_does_not_leak(variant, junk):
    samples = make_samples("dense")
    ignored = (samples.label == -1)[:, None]
    dirty = replace(
        samples,
        logits=torch.where(ignored, junk, samples.logits),
        deltas=torch.where(ignored[..., None], junk, samples.deltas),
    )
    method = build(variant=variant)
    assert_close(losses_and_gradients(method, dirty), losses_and_gradients(method, samples), rtol=0, atol=0)
    assert_close(method.inspect(dirty), method.inspect(samples), rtol=0, atol=0)


@VARIANTS
def test_the_order_of_rows_does_not_matter(variant):
    samples = shared(make_samples("dense"))
    order = torch.randperm(len(samples.label), generator=torch.Generator().manual_seed(2))
    moved = replace(samples, **{name: getattr(samples, name)[order] for name in ROWS})
    losses, gradients = losses_and_gradients(build(variant=variant), samples)
    moved_losses, moved_gradients = losses_and_gradients(build(variant=variant), moved)
    assert_close(moved_losses, losses)
    assert_close(moved_gradients, tuple(gradient[order] for gradient in gradients))


# The contract with training


def test_looking_first_does_not_cut_gradients():
    """What inspect leaves in the samples' cache still has its gradient."""
    samples = make_samples("dense")
    inputs = samples.logits.requires_grad_(), samples.deltas.requires_grad_()
    build().inspect(samples)
    gradients = torch.autograd.grad(sum(build()(samples).values()), inputs)
    assert_close(gradients, losses_and_gradients(build(), samples)[1])


def test_nothing_of_the_logits_size_is_kept():
    samples = make_samples("dense", [0, 60, 60, 2] * 50, num_classes=60)
    samples.logits.requires_grad_()
    kept = []

    def pack(tensor):
        if tensor.numel() >= samples.logits.numel() and tensor.data_ptr() != samples.logits.data_ptr():
            kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        build()(samples)
    assert kept == []


def test_ema_normalizer_divides_and_is_saved():
    samples = make_samples("dense")
    plain, ema = build(), build(normalizer="ema")
    count = samples.foreground.sum().item()
    ratio = (0.9 * 100 + 0.1 * count) / count
    assert ema(samples)["classification"].item() == pytest.approx(plain(samples)["classification"].item() / ratio)
    assert ema.state_dict()["normalizer.mean"].item() == pytest.approx(0.9 * 100 + 0.1 * count)


def test_the_assigner_is_the_papers():
    assert build(top_n=40).assigner() == TopNAssigner(40)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top_n": 0}, "top_n: .* greater than 0"),
        ({"top_n": 2.5}, "top_n: .* integer"),
        ({"localization_share": 1.5}, "localization_share: .* less than or equal to 1"),
        ({"variant": "mine"}, "variant: .* 'paper' or 'code'"),
        ({"gamma": -1.0}, "gamma: .* greater than or equal to 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        build(**wrong)

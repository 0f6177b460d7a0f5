"""What every method promises at every stage it is defined for, collected from imbdet/methods."""

from dataclasses import replace

import pytest
import torch
from contract_cases import (
    METHODS,
    METHODS_AND_STAGES,
    PAIRS,
    PARAMETERS,
    changed_rows,
    losses_and_gradients,
    make_batch,
    make_samples,
    tiny_detector,
)
from torch.testing import assert_close

from imbdet.config import method_names
from imbdet.methods import build_method


def test_every_method_is_under_contract():
    assert sorted(PARAMETERS) == method_names()
    assert sorted({(spec["name"], stage) for spec, stage in PAIRS}) == [
        ("cross_entropy", "dense"),
        ("focal", "dense"),
        ("focal_star", "dense"),
    ]


def assert_finite(losses, gradients):
    for name, loss in losses.items():
        assert loss.shape == (), name
        assert loss.isfinite(), name
    for gradient in gradients:
        assert gradient.isfinite().all()


@METHODS_AND_STAGES
def test_ignored_rows_get_no_gradient(spec, stage):
    samples = make_samples(stage)
    _, gradients = losses_and_gradients(build_method(spec), samples)
    for gradient in gradients:
        assert (gradient[samples.label == -1] == 0).all()
        assert (gradient != 0).any()


@METHODS_AND_STAGES
@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
def test_what_ignored_rows_hold_does_not_leak(spec, stage, junk):
    samples = make_samples(stage)
    ignored = (samples.label == -1)[:, None]
    dirty = replace(
        samples,
        logits=torch.where(ignored, junk, samples.logits),
        deltas=torch.where(ignored, junk, samples.deltas),
    )
    clean_losses, clean_gradients = losses_and_gradients(build_method(spec), samples)
    losses, gradients = losses_and_gradients(build_method(spec), dirty)
    assert_close(losses, clean_losses, rtol=0, atol=0)
    assert_close(gradients, clean_gradients, rtol=0, atol=0)


@METHODS_AND_STAGES
def test_background_boxes_cost_nothing(spec, stage):
    samples = make_samples(stage)
    _, (_, gradient) = losses_and_gradients(build_method(spec), samples)
    assert (gradient[~samples.foreground] == 0).all()
    assert (gradient[samples.foreground] != 0).any(1).all()


@METHODS_AND_STAGES
@pytest.mark.parametrize(
    "label",
    [[3] * 8, [-1] * 8, [3, 3, 3, 3, -1, -1, -1, -1], [3, 1, 3, 3, 3, 3, 3, 3], [0, 1, 2, 0, 0, 1, 2, 1]],
    ids=["background", "ignored", "an image ignored", "one foreground row", "foreground"],
)
def test_unusual_labels_are_finite_and_back_propagate(spec, stage, label):
    assert_finite(*losses_and_gradients(build_method(spec), make_samples(stage, label)))


@METHODS_AND_STAGES
def test_one_class(spec, stage):
    assert_finite(*losses_and_gradients(build_method(spec), make_samples(stage, num_classes=1)))


@METHODS_AND_STAGES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_and_half_precision_outputs_are_finite(spec, stage, dtype):
    samples = make_samples(stage, dtype=dtype)
    samples = replace(samples, logits=torch.where(samples.logits > 0, 100.0, -100.0).to(dtype))
    losses, gradients = losses_and_gradients(build_method(spec), samples)
    assert_finite(losses, gradients)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(gradient.dtype == dtype for gradient in gradients)


@METHODS_AND_STAGES
def test_the_order_of_rows_does_not_matter(spec, stage):
    samples = make_samples(stage)
    order = torch.randperm(len(samples.label), generator=torch.Generator().manual_seed(2))
    losses, gradients = losses_and_gradients(build_method(spec), samples)
    permuted_losses, permuted = losses_and_gradients(build_method(spec), changed_rows(samples, lambda x: x[order]))
    assert_close(permuted_losses, losses, rtol=1e-6, atol=0)
    for gradient, other in zip(gradients, permuted, strict=True):
        assert_close(other, gradient[order], rtol=1e-6, atol=0)


@METHODS_AND_STAGES
def test_a_weight_multiplies_its_row(spec, stage):
    """Twice the weight of every row is twice the loss: samplers rely on it."""
    samples = make_samples(stage)
    losses, _ = losses_and_gradients(build_method(spec), samples)
    doubled, _ = losses_and_gradients(build_method(spec), replace(samples, weight=2 * samples.weight))
    assert_close(doubled, {name: 2 * loss for name, loss in losses.items()})


BATCHES = {
    "an image without boxes": [[[5, 5, 40, 50], [30, 30, 50, 54]], []],
    "no boxes": [[], []],
    "a box that no anchor covers": [[[400, 400, 420, 420]], [[5, 5, 40, 50]]],
    "only a box that no anchor covers": [[[400, 400, 420, 420]], []],
    "a box of no area": [[[30, 30, 30, 30]], [[5, 5, 40, 50]]],
}


@METHODS
@pytest.mark.parametrize("boxes", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("num_classes", [1, 3])
def test_unusual_batches_train(spec, boxes, num_classes):
    """From images to gradients: every weight gets one, also where there is nothing to find."""
    model = tiny_detector(build_method(spec), num_classes)
    losses = model(make_batch(boxes))
    sum(losses.values()).backward()
    assert_finite(losses, [p.grad for p in model.parameters()])


@METHODS
def test_a_box_that_nothing_covers_leaves_everything_background(spec):
    model = tiny_detector(build_method(spec))
    samples = model.samples(make_batch(BATCHES["only a box that no anchor covers"]))
    assert (samples.label == samples.num_classes).all()


@METHODS
def test_a_restored_model_takes_the_same_step(spec):
    """Two steps, a round trip through the state dict, a third step: bit for bit the same."""
    batch = make_batch(BATCHES["an image without boxes"])

    def step(model):
        losses = model(batch)
        model.zero_grad()
        sum(losses.values()).backward()
        torch.optim.SGD(model.parameters(), lr=0.01).step()
        return losses

    model = tiny_detector(build_method(spec))
    step(model), step(model)
    restored = tiny_detector(build_method(spec))
    restored.load_state_dict(model.state_dict())
    assert_close(step(restored), step(model), rtol=0, atol=0)
    assert_close(dict(restored.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    if spec["normalizer"] == "ema":
        assert restored.state_dict()["method.normalizer.mean"] != 100

"""Cross entropy, focal loss and FL* at every stage of theirs, box loss and normaliser included, against plain loops."""

from dataclasses import replace

import focal_reference as reference
import numpy as np
import pytest
import torch
from batches import arrays, losses_and_gradients, make_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from imbdet.methods import build_method
from imbdet.normalizers import NORMALIZERS

STAGES = ("dense", "rpn", "roi")
COMMON = {"prior_prob": None, "normalizer": "sampled", "box_beta": 0.3}
SOFTMAX = {"name": "cross_entropy", "activation": "softmax", "alpha": None} | COMMON
SIGMOID = {"name": "cross_entropy", "activation": "sigmoid", "alpha": 0.75} | COMMON
FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0} | COMMON
STAR = {"name": "focal_star", "alpha": 0.25, "gamma": 2.0, "beta": 1.0} | COMMON
SPECS = {
    "softmax": (SOFTMAX, STAGES),
    "sigmoid": (SIGMOID, STAGES),
    "no alpha": (SIGMOID | {"alpha": None}, STAGES),
    "focal": (FOCAL, STAGES),
    "focal, gamma below 1, no alpha": (FOCAL | {"gamma": 0.5, "alpha": None}, STAGES),
    "FL*": (STAR, ("dense",)),
    "FL*, steeper": (STAR | {"gamma": 4.0, "beta": 0.0}, ("dense",)),
}
CASES = [pytest.param(spec, stage, id=f"{name}-{stage}") for name, (spec, at) in SPECS.items() for stage in at]
EVERY_CASE = pytest.mark.parametrize(("spec", "stage"), CASES)
EVERY_NORMALIZER = pytest.mark.parametrize("normalizer", NORMALIZERS)
# Divisors are single precision: the running mean is rounded, counts are not.
CLOSE = {"rtol": 1e-6, "atol": 1e-12}


def random_samples(spec, stage, seed, **options):
    """Samples with random weights, some of them 0, and rubbish where rows are ignored."""
    random = torch.Generator().manual_seed(seed)
    samples = make_samples(stage, activation=spec.get("activation", "sigmoid"), seed=seed, **options)
    ignored = (samples.label == -1)[:, None]
    return replace(
        samples,
        weight=(3 * torch.rand(len(ignored), generator=random, dtype=torch.float64) - 1).clamp(min=0),
        logits=torch.where(ignored, torch.nan, samples.logits),
        deltas=torch.where(ignored[..., None], torch.inf, samples.deltas),
    )


def expected(spec, batch, normalizer=None, mean=100.0):
    """Both terms by the reference."""
    if spec.get("activation") == "softmax":
        rows = reference.softmax_rows(batch)
    else:
        parameters = {key: spec[key] for key in ("gamma", "beta") if key in spec}
        elementwise = getattr(reference, spec["name"])
        rows = reference.sigmoid_rows(batch, lambda x_t: elementwise(x_t, **parameters), spec["alpha"])
    return reference.losses(batch, rows, spec["box_beta"], normalizer or spec["normalizer"], mean)


def assert_terms(losses, terms):
    assert_close({name: loss.item() for name, loss in losses.items()}, terms, **CLOSE)


def central_difference(spec, batch, name, entry, step=1e-6):
    """Slope of the reference's sum of losses along one number of the batch."""
    sums = []
    for sign in (1, -1):
        moved = batch[name].copy()
        moved[entry] += sign * step
        sums.append(sum(expected(spec, batch | {name: moved}).values()))
    return (sums[0] - sums[1]) / (2 * step)


@EVERY_CASE
@EVERY_NORMALIZER
@pytest.mark.parametrize("seed", [1, 2])
def test_both_terms(spec, stage, normalizer, seed):
    samples = random_samples(spec, stage, seed)
    losses, _ = losses_and_gradients(build_method(spec | {"normalizer": normalizer}), samples)
    assert_terms(losses, expected(spec, arrays(samples), normalizer))


@EVERY_CASE
def test_gradients(spec, stage):
    samples = random_samples(spec, stage, seed=3)
    batch, random = arrays(samples), np.random.default_rng(3)
    _, gradients = losses_and_gradients(build_method(spec), samples)
    foreground = samples.foreground.nonzero()[:, 0].numpy()
    everywhere = (samples.label >= 0).nonzero()[:, 0].numpy()
    for name, gradient, rows in zip(("logits", "deltas"), gradients, (everywhere, foreground), strict=True):
        for row in random.choice(rows, 6, replace=False):
            entry = (row, *(random.integers(size) for size in gradient.shape[1:]))
            assert_close(gradient[entry].item(), central_difference(spec, batch, name, entry), rtol=1e-6, atol=1e-8)


UNUSUAL = {
    "an image without foreground": {"label": [0, 3, 2, -1, 3, 3, 3, -1]},
    "one foreground row": {"label": [3, 3, 1, 3]},
    "no foreground": {"label": [3, -1, 3, 3]},
    "ignored": {"label": [-1, -1]},
    "foreground": {"label": [0, 1, 2, 0, 1, 1]},
    "one class": {"label": [0, 1, -1, 0, 1, 1], "num_classes": 1},
    "three images": {"label": [0, 0, 1, 3, 3, -1, 2, 3, 0], "images": 3},
}


@EVERY_CASE
@EVERY_NORMALIZER
@pytest.mark.parametrize("options", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_batches(spec, stage, normalizer, options):
    samples = random_samples(spec, stage, seed=4, **options)
    losses, gradients = losses_and_gradients(build_method(spec | {"normalizer": normalizer}), samples)
    assert_terms(losses, expected(spec, arrays(samples), normalizer))
    assert all(gradient.isfinite().all() for gradient in gradients)


@EVERY_CASE
def test_the_running_mean_goes_on_from_batch_to_batch(spec, stage):
    method, mean = build_method(spec | {"normalizer": "ema"}), 100.0
    for seed, label in enumerate(([0, 1, 3, -1], [3, 3], [0, 0, 1, 2, 2, 3])):
        samples = random_samples(spec, stage, seed, label=label)
        batch = arrays(samples)
        assert_terms(method(samples), expected(spec, batch, "ema", mean))
        mean = reference.divisors(batch, "ema", mean)[0]


@given(alpha=st.none() | st.floats(0, 1), gamma=st.floats(0, 5), seed=st.integers(0, 99), stage=st.sampled_from(STAGES))
@settings(max_examples=40, deadline=None)
def test_any_alpha_and_gamma(alpha, gamma, seed, stage):
    spec = FOCAL | {"alpha": alpha, "gamma": gamma}
    samples = random_samples(spec, stage, seed)
    losses, _ = losses_and_gradients(build_method(spec), samples)
    assert_terms(losses, expected(spec, arrays(samples)))


def assert_same(spec, other, stage):
    samples = random_samples(spec, stage, seed=5)
    results = [losses_and_gradients(build_method(s), samples) for s in (spec, other)]
    assert_close(results[0], results[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_loss_without_focus_is_cross_entropy(stage, alpha):
    assert_same(FOCAL | {"gamma": 0.0, "alpha": alpha}, SIGMOID | {"alpha": alpha}, stage)


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_fl_star_without_shift_or_slope_is_cross_entropy(alpha):
    assert_same(STAR | {"gamma": 1.0, "beta": 0.0, "alpha": alpha}, SIGMOID | {"alpha": alpha}, "dense")


@pytest.mark.parametrize("stage", STAGES)
def test_alpha_one_half_is_half_the_classification_loss(stage):
    samples = random_samples(SIGMOID, stage, seed=6)
    half, plain = (build_method(SIGMOID | {"alpha": alpha})(samples) for alpha in (0.5, None))
    assert_close(2 * half["classification"], plain["classification"])
    assert_close(half["box_regression"], plain["box_regression"])


def test_one_class_in_softmax_is_sigmoid_of_the_difference():
    """Of two columns only the difference counts: RPN's two-class softmax and one sigmoid are the same."""
    samples = random_samples(SOFTMAX, "rpn", seed=7)
    difference = replace(samples, logits=samples.logits[:, :1] - samples.logits[:, 1:])
    losses = build_method(SOFTMAX)(samples), build_method(SIGMOID | {"alpha": None})(difference)
    assert_close(*losses)

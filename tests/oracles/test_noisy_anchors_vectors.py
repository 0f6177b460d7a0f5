"""Positives, soft labels, weights, losses, gradients and the normaliser of noisy anchors equal the reference file."""

import json

import pytest
import torch
from torch.testing import assert_close

from imbdet.assigners import Truth
from imbdet.geometry import BoxCoder
from imbdet.methods import build_method
from imbdet.samples import dense_candidates

TOLERANCE = {"rtol": 1e-9, "atol": 1e-14}


@pytest.fixture(scope="module")
def runs(vectors):
    cases = json.loads((vectors / "noisy_anchors.json").read_text())["cases"]
    pairs = [(case, run) for case in cases for run in case["runs"]]
    assert pairs
    return pairs


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def rows(levels, columns):
    """[B, A * columns, H, W] maps of the levels, channels (A, columns), to [B * all anchors, columns] rows."""
    maps = [double(level).unflatten(1, (-1, columns)).permute(0, 3, 4, 1, 2) for level in levels]
    return torch.cat([level.flatten(1, 3) for level in maps], 1).flatten(0, 1)


def truth_of(case):
    images = [i for i, boxes in enumerate(case["gt_boxes"]) for _ in boxes]
    return Truth(
        boxes=double([box for boxes in case["gt_boxes"] for box in boxes]).reshape(-1, 4),
        labels=torch.tensor([label for labels in case["gt_classes"] for label in labels], dtype=torch.int64),
        images=torch.tensor(images, dtype=torch.int64),
        ignore_boxes=double([]).reshape(-1, 4),
        ignore_images=torch.tensor([], dtype=torch.int64),
        num_images=len(case["gt_boxes"]),
    )


def method_of(run):
    spec = {
        "name": "noisy_anchors",
        "variant": "code",
        "top_n": run["topN"],
        "localization_share": run["alpha"],
        "alpha": run["focal_alpha"],
        "gamma": run["focal_gamma"],
        "prior_prob": 0.01,
        "normalizer": "ema",
        "box_beta": run["smooth_l1_beta"],
    }
    method = build_method(spec)
    method.normalizer.mean.fill_(run["loss_normalizer_before"])
    return method


def samples_of(method, case):
    """What a detector makes of the case: matched with the method's own assigner. Logits and offsets want gradients."""
    truth = truth_of(case)
    anchors = torch.cat([double(level) for level in case["anchors_per_level"]])
    levels = torch.cat([torch.full((len(level),), i) for i, level in enumerate(case["anchors_per_level"])])
    matches = method.assigner()(anchors, truth)
    candidates = dense_candidates(
        anchors, levels, matches, truth.boxes, truth.labels, BoxCoder(), case["num_classes"], "dense"
    )
    logits = rows(case["box_cls"], case["num_classes"]).requires_grad_()
    deltas = rows(case["box_delta"], 4)[:, None].requires_grad_()
    return candidates.predicted(logits, deltas)


def test_positives_and_their_boxes(runs):
    for case, run in runs:
        samples = samples_of(method_of(run), case)
        assert_close(samples.label, torch.tensor(run["gt_classes"]).flatten(), rtol=0, atol=0)


def test_soft_labels_and_weights(runs):
    for case, run in runs:
        method = method_of(run)
        shown = method.inspect(samples_of(method, case))
        assert_close(shown["soft_label"], double(run["soft_labels"]).flatten(), **TOLERANCE)
        assert_close(shown["reweight"], double(run["reweight"]).flatten(), **TOLERANCE)


def test_losses_gradients_and_normalizer(runs):
    for case, run in runs:
        method = method_of(run)
        samples = samples_of(method, case)
        losses = method(samples)
        sum(losses.values()).backward()
        # The running mean is kept in fp32: what it is divided by is compared apart, and then made up for.
        expected = run["loss_normalizer_after"]
        assert_close(method.normalizer.mean.item(), expected, rtol=1e-6, atol=0)
        factor = method.normalizer.mean.double() / expected
        assert_close(factor * losses["classification"], double(run["losses"]["loss_cls"]), **TOLERANCE)
        assert_close(factor * losses["box_regression"], double(run["losses"]["loss_box_reg"]), **TOLERANCE)
        assert_close(factor * samples.logits.grad, rows(run["grads_cls"], case["num_classes"]), **TOLERANCE)
        assert_close(factor * samples.deltas.grad[:, 0], rows(run["grads_box"], 4), **TOLERANCE)

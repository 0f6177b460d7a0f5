"""OHEM's mini-batches, SSD's hard negatives and their losses equal the reference files."""

import json
from dataclasses import replace

import pytest
import torch
from batches import losses_and_gradients, make_samples
from torch.testing import assert_close

from imbdet.losses import softmax_cross_entropy
from imbdet.methods import build_method

FP64 = {"rtol": 1e-9, "atol": 1e-14}


def runs(folder, name):
    """Each case with each of its runs."""
    cases = json.loads((folder / f"{name}.json").read_text())["cases"]
    assert cases
    return [(case, run) for case in cases for run in case["runs"]]


def samples_with(losses, stage, label, num_classes, boxes, images, activation):
    """Samples whose cross entropies are ``losses``; the offsets are perfect, so boxes cost nothing."""
    samples = make_samples(stage, label, num_classes, images=images, activation=activation)
    # log(1 + exp(x)) is the loss, where x is by how much the wrong column is ahead.
    ahead = torch.tensor(losses, dtype=torch.float64).expm1().log()
    columns = torch.full_like(samples.logits, -torch.inf)
    if activation == "sigmoid":
        columns = torch.where(samples.foreground, -ahead, ahead)[:, None]
    else:
        target = samples.label[:, None]
        columns = columns.scatter(1, target, 0.0).scatter(1, (target + 1) % columns.shape[1], ahead[:, None])
    priors = torch.tensor(boxes, dtype=torch.float64)
    return replace(
        samples,
        logits=columns,
        priors=priors,
        gt_boxes=priors,
        gt_id=torch.arange(len(label)),
        deltas=0 * samples.deltas,
    )


def test_the_mini_batch_of_proposals(vectors):
    """The source has labels with background 0 and pixels with an extent of their own (+1)."""
    for case, run in runs(vectors, "ohem_minibatch"):
        num_classes = max(case["labels"])
        label = [label - 1 if label else num_classes for label in case["labels"]]
        boxes = [[x1, y1, x2 + 1, y2 + 1] for _, x1, y1, x2, y2 in case["rois"]]
        samples = samples_with(case["loss"], "roi", label, num_classes, boxes, 1, "softmax")
        # B is of all images together: with one image in name, it is per_image.
        samples = replace(samples, image_id=torch.tensor([int(image) for image, *_ in case["rois"]]))
        method = build_method(
            {
                "name": "ohem",
                "variant": "code",
                "per_image": run["batch_size"],
                "nms_iou": run["nms_thresh"] if run["use_nms"] else None,
                "activation": "softmax",
                "prior_prob": None,
                "normalizer": "sampled",
                "box_beta": 1.0,
            }
        )
        kept = method.sampler()(samples, lambda samples=samples: samples, None)
        assert kept.index[kept.valid].tolist() == run["selected"]
        losses = method(samples.select(kept).predicted(samples.logits[kept.index], samples.deltas[kept.index]))
        hard = torch.tensor(run["loss_of_selected"], dtype=torch.float64)
        assert_close(losses, {"classification": hard.mean(), "box_regression": torch.zeros_like(hard[0])}, **FP64)


def test_the_mini_batch_of_anchors(vectors):
    for case, run in runs(vectors, "ohem_dense"):
        label = [{1: 0, 0: 1, -1: -1}[kind] for kind in case["labels_1pos_0neg_m1ign"]]
        samples = samples_with(case["loss"], "dense", label, 1, case["anchors"], 1, "sigmoid")
        assert run["neg_per_pos"] in (None, 3)
        method = build_method(
            {
                "name": "ohem_dense",
                "per_image": run["batch"],
                "nms_iou": run["nms_thr"],
                "one_to_three": run["neg_per_pos"] is not None,
                "prior_prob": None,
                "normalizer": "sampled",
                "box_beta": 1.0,
            }
        )
        selected = method.inspect(samples)["selected"].nonzero()[:, 0]
        assert selected.tolist() == sorted(run["selected"])
        assert run["neg_per_pos"] is None or samples.foreground[selected].sum() == run["num_pos"]
        hard = torch.tensor(case["loss"], dtype=torch.float64)[selected]
        assert_close(method(samples)["classification"], hard.sum() / max(1, len(hard)), **FP64)


def test_hard_negatives(vectors):
    cases = json.loads((vectors / "ssd_hard_negative.json").read_text())["cases"]
    assert cases
    for case in cases:
        names = ("logits", "elementwise", "grad")
        logits, rows, gradient = (torch.tensor(case[name], dtype=torch.float64) for name in names)
        options = {"num_classes": logits.shape[1] - 1, "images": 1, "activation": "softmax"}
        samples = replace(make_samples("dense", case["labels"], **options), logits=logits)
        spec = {"negatives_per_positive": case["neg_pos_ratio"], "normalizer": "batch", "box_beta": 1.0}
        method = build_method({"name": "ssd_hard_negatives", **spec})
        assert_close(softmax_cross_entropy(samples.logits, samples.label), rows, **FP64)
        losses, (found, _) = losses_and_gradients(method, samples)
        assert losses["classification"].item() == pytest.approx(case["loss"], rel=1e-9)
        assert_close(found, gradient, **FP64)
        assert_close(method.inspect(samples)["selected"] > 0, (gradient != 0).any(1))

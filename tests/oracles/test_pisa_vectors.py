"""PISA's weights, CARL with its gradients, and score-HLR sampling equal the reference files."""

import json

import pytest
import torch
from batches import losses_and_gradients
from torch.testing import assert_close

from imbdet.geometry import BoxCoder
from imbdet.methods.pisa import PISA
from imbdet.samples import Samples

FP64 = {"rtol": 1e-9, "atol": 1e-14}
HEADS = {
    "two_stage_softmax": {"activation": "softmax", "alpha": None, "gamma": 0.0, "normalizer": "sampled"},
    "one_stage_focal": {"activation": "sigmoid", "alpha": 0.25, "gamma": 2.0, "normalizer": "batch"},
}
FILES = pytest.mark.parametrize("name", HEADS)
SAMPLER = ("sampled", "foreground_share", "negative_power", "negative_bias", "score_floor", "cluster_iou")
RECIPE = {"positive_power": 2.0, "positive_bias": 0.0, "carl_power": 1.0, "carl_bias": 0.2, "prior_prob": None}


def read(folder, name):
    cases = json.loads((folder / f"{name}.json").read_text())["cases"]
    assert cases
    return cases


def method_of(name, case, **changed):
    return PISA(**{**RECIPE, **HEADS[name], **dict.fromkeys(SAMPLER), "box_beta": case["smooth_l1_beta"], **changed})


def samples_of(priors, logits, deltas, label, case, gt_id=None, gt_boxes=None):
    """Samples of one image; PISA reads images only in its sampler."""
    n = len(label)
    ones = torch.ones(n, dtype=torch.float64)
    return Samples(
        logits=logits,
        deltas=deltas.reshape(n, -1, 4),
        priors=priors,
        label=label,
        gt_id=torch.full_like(label, -1) if gt_id is None else gt_id,
        image_id=torch.zeros_like(label),
        level=torch.zeros_like(label),
        prior_iou=0 * ones,
        weight=ones,
        multiplicity=ones,
        gt_boxes=priors[:0] if gt_boxes is None else gt_boxes,
        box_coder=BoxCoder(tuple(1 / std for std in case["coder_stds"])),
        num_classes=case["num_class"],
        num_images=1,
        stage="roi",
    )


def doubles(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def batch_of(case):
    """The references give targets as offsets and number boxes in each image; here boxes are numbered over the batch."""
    names = ("rois", "cls_score", "bbox_pred", "bbox_targets", "label_weights_in")
    rois, logits, deltas, targets, weights = doubles(*(case[name] for name in names))
    priors, label, positives = rois[:, -4:], torch.tensor(case["labels"]), torch.tensor(case["pos_inds"])
    ids, offset = [], 0
    for of_image in case["pos_assigned_gt_inds_per_image"]:
        ids += [offset + i for i in of_image]
        offset += max(of_image, default=-1) + 1
    gt_id = torch.full_like(label, -1).index_copy(0, positives, torch.tensor(ids))
    samples = samples_of(priors, logits, deltas, label, case, gt_id, torch.zeros(offset, 4, dtype=torch.float64))
    boxes = samples.box_coder.decode(targets, priors)
    gt_boxes = samples.gt_boxes.index_copy(0, gt_id[positives], boxes[positives])
    return samples_of(priors, logits, deltas, label, case, gt_id, gt_boxes), weights


@FILES
def test_iou_of_the_predicted_boxes(vectors, name):
    for case in read(vectors, f"pisa_isrp_carl_{name}"):
        samples, _ = batch_of(case)
        iou = method_of(name, case).inspect(samples)["iou"]
        assert_close(iou[samples.foreground], *doubles(case["decoded_iou"]), **FP64)


@FILES
def test_weights_of_the_positives(vectors, name):
    for case in read(vectors, f"pisa_isrp_carl_{name}"):
        samples, weights = batch_of(case)
        assert (weights == samples.weight).all()
        for run in case["isr_p"]:
            method = method_of(name, case, positive_power=run["k"], positive_bias=run["bias"])
            expected = torch.tensor(run["label_weights_out"], dtype=torch.float64)
            assert_close(method.inspect(samples)["class_weight"], expected, **FP64)
            # What the loss multiplies is what inspect shows.
            logits = samples.logits.requires_grad_()
            loss = method.loss(logits, samples.label)
            plain = (expected * loss).sum() / method.normalizer(samples)
            assert_close(method(samples)["classification"], plain, **FP64)
            ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (method(samples)["classification"], plain))
            assert_close(ours, theirs, **FP64)


@FILES
def test_carl_and_its_gradients(vectors, name):
    for case in read(vectors, f"pisa_isrp_carl_{name}"):
        samples, _ = batch_of(case)
        for run in case["carl"]:
            method = method_of(name, case, carl_power=run["k"], carl_bias=run["bias"])
            scale = method.normalizer(samples).double() / run["avg_factor"]
            losses, gradients = losses_and_gradients(
                lambda s, method=method, scale=scale: {"carl": scale * method(s)["carl"]}, samples
            )
            loss, on_logits, on_deltas = doubles(run["loss"], run["grad_cls"], run["grad_bbox"])
            assert_close(losses["carl"], loss.sum(), **FP64)
            assert_close(gradients[0], on_logits, **FP64)
            assert_close(gradients[1].flatten(1), on_deltas, **FP64)


def test_score_hlr_sampling(vectors):
    for case in read(vectors, "pisa_score_hlr"):
        priors, logits, deltas = doubles(case["neg_boxes"], case["cls_score"], case["bbox_pred"])
        samples = samples_of(priors, logits, deltas, torch.full((len(priors),), case["num_class"]), case)
        for run in case["runs"]:
            values = (run["num_expected"], 0.25, run["k"], run["bias"], run["score_thr"], run["iou_thr"])
            method = method_of("two_stage_softmax", {"smooth_l1_beta": 1.0}, **dict(zip(SAMPLER, values, strict=True)))
            kept = method.sampler()(samples, lambda samples=samples: samples, torch.Generator().manual_seed(0))
            ranked, expected = min(run["num_valid"], run["num_expected"]), run["neg_inds_selected"]
            index = kept.index[kept.valid].tolist()
            assert index[:ranked] == expected[:ranked]
            assert len(set(index)) == len(expected)
            weights = torch.tensor(run["weights"], dtype=torch.float64)
            if ranked < len(expected):  # other rows are drawn here, whose losses change the scale of all weights
                weights = rescaled(weights, samples, index)
            assert_close(kept.weight[kept.valid], weights, **FP64)


def rescaled(weights, samples, index):
    """Weights for the rows that were drawn here, where the reference drew others: both keep the sum of the losses."""
    loss = -samples.logits.log_softmax(1)[:, -1][torch.tensor(index)]
    return weights * loss.sum() / (weights * loss).sum()

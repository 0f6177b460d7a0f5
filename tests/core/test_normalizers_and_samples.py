"""The four normalisers against their formulas, and what Samples derives from its rows."""

from dataclasses import fields, replace

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import box_iou

from imbdet.assigners import BACKGROUND, FOREGROUND, IGNORED, Matches
from imbdet.geometry import BoxCoder
from imbdet.normalizers import EMA, Batch, PerImage, Sampled
from imbdet.samples import ROW_FIELDS, Candidates, Kept, Samples, dense_candidates, labels_of

K = 2


def samples_of(*labels_by_image, deltas_dtype=torch.float32, gt_boxes=None):
    """Samples whose images hold rows of the given labels; every foreground row has the first ground truth."""
    label = torch.tensor([value for labels in labels_by_image for value in labels])
    n = len(label)
    image_id = torch.tensor([i for i, labels in enumerate(labels_by_image) for _ in labels])
    foreground = (label >= 0) & (label < K)
    return Samples(
        logits=torch.zeros(n, K),
        deltas=torch.ones(n, 1, 4, dtype=deltas_dtype),
        priors=torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(n, 1),
        label=label,
        gt_id=torch.where(foreground, 0, -1),
        image_id=image_id,
        level=torch.zeros(n, dtype=torch.int64),
        prior_iou=torch.zeros(n),
        weight=torch.ones(n),
        multiplicity=torch.ones(n),
        gt_boxes=torch.tensor([[5.0, 0.0, 15.0, 10.0]]) if gt_boxes is None else gt_boxes,
        box_coder=BoxCoder(),
        num_classes=K,
        num_images=len(labels_by_image),
        stage="dense",
    )


def test_per_image_divides_by_the_image_and_their_number():
    samples = samples_of([0, 1, 1, 2, -1], [2, 2], [0, 2, -1])
    assert PerImage()(samples).tolist() == [9.0] * 5 + [3.0] * 2 + [3.0] * 3


def test_batch_divides_by_the_foreground_of_all_images():
    assert Batch()(samples_of([0, 1, 1, 2, -1], [2, 2], [0, 2, -1])) == 4
    assert Batch()(samples_of([2, 2, -1], [2])) == 1


def test_sampled_divides_by_all_rows_that_are_not_ignored():
    assert Sampled()(samples_of([0, 1, 1, 2, -1], [2, 2], [0, 2, -1])) == 8
    assert Sampled()(samples_of([2, 2])) == 2
    assert Sampled()(samples_of([-1, -1], [-1])) == 1


def test_ema_follows_the_batches_in_training_and_rests_in_evaluation():
    """detectron2: 100 at first, then .9 of it plus .1 of the foreground count, which is at least 1."""
    ema, expected = EMA(), 100.0
    for labels, count in (([0, 0, 0, 2], 3), ([2, 2], 1), ([1] * 40, 40)):
        expected = 0.9 * expected + 0.1 * count
        assert ema(samples_of(labels)).item() == pytest.approx(expected)
    ema.eval()
    assert ema(samples_of([0])).item() == pytest.approx(expected)
    assert ema.state_dict()["mean"].item() == pytest.approx(expected)


def test_an_earlier_divisor_does_not_change_with_the_running_mean():
    """Gradients of a step are computed after the mean may have moved on."""
    ema = EMA()
    first = ema(samples_of([0]))
    before = first.item()
    ema(samples_of([0]))
    assert first.item() == before


def test_foreground_is_every_class_and_neither_background_nor_ignored():
    assert samples_of([0, 1, 2, -1]).foreground.tolist() == [True, True, False, False]


def test_offsets_to_predict_are_those_of_the_matched_box_and_zero_elsewhere():
    samples = samples_of([0, 2, -1])
    assert_close(samples.delta_targets, torch.tensor([[0.5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert samples.delta_targets.dtype == torch.float32


def test_without_ground_truth_there_is_nothing_to_predict():
    samples = samples_of([2, -1], gt_boxes=torch.zeros(0, 4))
    assert (samples.delta_targets == 0).all()
    assert torch.equal(samples.own_gt_boxes, samples.priors)
    assert (samples.predicted_iou == 0).all()


def test_a_foreground_rows_box_is_the_one_it_was_matched_with():
    boxes = torch.tensor([[5.0, 0.0, 15.0, 10.0], [1.0, 2.0, 3.0, 4.0]])
    samples = replace(samples_of([0, 1, 2, -1], gt_boxes=boxes), gt_id=torch.tensor([1, 0, 1, 0]))
    expected = torch.stack([boxes[1], boxes[0], samples.priors[2], samples.priors[3]])
    assert torch.equal(samples.own_gt_boxes, expected)


@pytest.mark.parametrize(
    ("dtype", "promoted"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_foreground_offsets_are_promoted_and_masked(dtype, promoted):
    offsets = samples_of([0, 2, -1], deltas_dtype=dtype).foreground_deltas
    assert offsets.dtype == promoted
    assert offsets.tolist() == [[1.0] * 4, [0.0] * 4, [0.0] * 4]


def random_samples(columns, label=(0, 1, 2, -1, 1, 0), logit_columns=K):
    """Samples with random logits, priors and offsets, [n, columns, 4], that want gradients; NaN where ignored."""
    random = torch.Generator().manual_seed(3)
    samples, n = samples_of(list(label)), len(label)
    ignored = samples.label == -1
    logits = torch.randn(n, logit_columns, generator=random).masked_fill(ignored[:, None], torch.nan)
    deltas = torch.randn(n, columns, 4, generator=random).masked_fill(ignored[:, None, None], torch.nan)
    corner = 4 * torch.rand(n, 2, generator=random)
    priors = torch.cat([corner, corner + 8 + 4 * torch.rand(n, 2, generator=random)], 1)
    return replace(samples, logits=logits.requires_grad_(), deltas=deltas.requires_grad_(), priors=priors)


@pytest.mark.parametrize("columns", [1, K])
def test_a_foreground_row_has_the_offsets_of_its_class(columns):
    samples = random_samples(columns)
    expected = torch.zeros(6, 4)
    for row, label in enumerate(samples.label.tolist()):
        if 0 <= label < K:
            expected[row] = samples.deltas[row, label if columns == K else 0].detach()
    assert_close(samples.foreground_deltas, expected, rtol=0, atol=0)


@pytest.mark.parametrize("columns", [1, K])
def test_offsets_of_other_classes_and_rows_get_no_gradient(columns):
    samples = random_samples(columns)
    samples.foreground_deltas.sum().backward()
    expected = torch.zeros(6, columns, 4)
    for row, label in enumerate(samples.label.tolist()):
        if 0 <= label < K:
            expected[row, label if columns == K else 0] = 1
    assert torch.equal(samples.deltas.grad, expected)


@pytest.mark.parametrize("logit_columns", [K, K + 1])
def test_the_target_logit_is_that_of_the_rows_class(logit_columns):
    samples = random_samples(1, logit_columns=logit_columns)
    samples.target_logits.sum().backward()
    expected, gradient = torch.zeros(6), torch.zeros(6, logit_columns)
    for row, label in enumerate(samples.label.tolist()):
        if 0 <= label < K:
            expected[row], gradient[row, label] = samples.logits[row, label].detach(), 1
    assert_close(samples.target_logits, expected, rtol=0, atol=0)
    assert torch.equal(samples.logits.grad, gradient)
    assert replace(samples, logits=samples.logits.bfloat16()).target_logits.dtype == torch.float32
    assert replace(samples, logits=samples.logits.double()).target_logits.dtype == torch.float64


@pytest.mark.parametrize("columns", [1, K])
def test_predicted_boxes_and_their_iou(columns):
    """Those of the foreground by their own class's offsets; the prior, and an IoU of 0, elsewhere."""
    samples = random_samples(columns)
    rows = samples.foreground
    decoded = samples.box_coder.decode(samples.foreground_deltas[rows], samples.priors[rows])
    assert_close(samples.predicted_boxes[rows], decoded)
    assert_close(samples.predicted_boxes[~rows], samples.priors[~rows])
    assert_close(samples.predicted_iou[rows], box_iou(decoded.detach(), samples.own_gt_boxes[rows]).diagonal())
    assert (samples.predicted_iou[rows] > 0).any()
    assert (samples.predicted_iou[~rows] == 0).all()
    assert samples.predicted_boxes.requires_grad
    assert not samples.predicted_iou.requires_grad


def test_a_perfect_prediction_has_an_iou_of_1():
    samples = random_samples(1)
    perfect = replace(samples, deltas=samples.delta_targets[:, None])
    assert_close(perfect.predicted_boxes, samples.own_gt_boxes)
    assert_close(perfect.predicted_iou, samples.foreground.float())


def test_a_selection_has_the_rows_that_were_kept_in_their_order():
    samples = samples_of([0, 1, 2, -1], [2, 0, -1])
    samples = replace(samples, **{name: torch.arange(7.0) + i for i, name in enumerate(("prior_iou", "multiplicity"))})
    index, valid = torch.tensor([5, 0, 3, 0, 2]), torch.tensor([True, True, True, False, False])
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 4.0])
    chosen = samples.select(Kept(index, valid, weight))
    for name in set(ROW_FIELDS) - {"label", "weight"}:
        assert torch.equal(getattr(chosen, name), getattr(samples, name)[index]), name
    assert chosen.label.tolist() == [0, 0, -1, -1, -1]  # what is not valid is ignored, whatever stands there
    assert torch.equal(chosen.weight, weight)
    for name in ("gt_boxes", "box_coder", "num_classes", "num_images", "stage"):
        assert getattr(chosen, name) is getattr(samples, name)
    assert type(chosen) is Candidates


def test_candidates_with_predictions_are_samples_of_the_same_rows():
    samples = random_samples(K)
    known = {f.name: getattr(samples, f.name) for f in fields(Candidates)}
    generator = torch.Generator()
    again = Candidates(**known).predicted(samples.logits, samples.deltas, generator)
    assert type(again) is Samples
    for f in fields(Samples):
        expected = generator if f.name == "generator" else getattr(samples, f.name)
        assert getattr(again, f.name) is expected, f.name


def matches_of(status, gt_id):
    status, gt_id = torch.tensor(status), torch.tensor(gt_id)
    numbers = torch.arange(status.numel()).view(status.shape).float()
    return Matches(gt_id, 0.1 * numbers, status, 1 + numbers)


STATUS = [[FOREGROUND, BACKGROUND, IGNORED], [BACKGROUND, FOREGROUND, IGNORED], [BACKGROUND, IGNORED, BACKGROUND]]
GT_ID = [[1, 0, 1], [2, 2, 2], [-1, -1, -1]]


def test_labels_are_those_of_the_matched_boxes_where_foreground():
    labels = labels_of(matches_of(STATUS, GT_ID), torch.tensor([4, 0, 3]), num_classes=5)
    assert labels.tolist() == [[0, 5, -1], [5, 3, -1], [5, -1, 5]]
    none = labels_of(matches_of(STATUS[2:], GT_ID[2:]), torch.zeros(0, dtype=torch.int64), num_classes=5)
    assert none.tolist() == [[5, -1, 5]]


def test_dense_candidates_are_all_anchors_of_one_image_after_the_other():
    anchors, levels = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 0, 1])
    matches, gt_labels = matches_of(STATUS, GT_ID), torch.tensor([4, 0, 3])
    gt_boxes, coder = torch.rand(3, 4, generator=torch.Generator().manual_seed(2)), BoxCoder()
    dense = dense_candidates(anchors, levels, matches, gt_boxes, gt_labels, coder, 5, "dense")
    for image in range(3):
        rows = slice(3 * image, 3 * image + 3)
        assert torch.equal(dense.priors[rows], anchors)
        assert torch.equal(dense.level[rows], levels)
        assert torch.equal(dense.label[rows], labels_of(matches, gt_labels, 5)[image])
        assert torch.equal(dense.gt_id[rows], matches.gt_id[image])
        assert torch.equal(dense.prior_iou[rows], matches.iou[image])
        assert torch.equal(dense.multiplicity[rows], matches.multiplicity[image])
        assert (dense.image_id[rows] == image).all()
    assert dense.weight.tolist() == [1.0] * 9
    assert (dense.num_classes, dense.num_images, dense.stage) == (5, 3, "dense")
    assert dense.gt_boxes is gt_boxes
    assert dense.box_coder is coder

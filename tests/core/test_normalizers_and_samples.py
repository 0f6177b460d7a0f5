"""The three normalisers against their formulas, and what Samples derives from its rows."""

import pytest
import torch
from torch.testing import assert_close

from imbdet.detectors.boxes import BoxCoder
from imbdet.normalizers import EMA, Batch, PerImage
from imbdet.samples import Samples

K = 2


def samples_of(*labels_by_image, deltas_dtype=torch.float32, gt_boxes=None):
    """Samples whose images hold rows of the given labels; every foreground row has the first ground truth."""
    label = torch.tensor([value for labels in labels_by_image for value in labels])
    n = len(label)
    image_id = torch.tensor([i for i, labels in enumerate(labels_by_image) for _ in labels])
    foreground = (label >= 0) & (label < K)
    return Samples(
        logits=torch.zeros(n, K),
        deltas=torch.ones(n, 4, dtype=deltas_dtype),
        priors=torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(n, 1),
        label=label,
        gt_id=torch.where(foreground, 0, -1),
        image_id=image_id,
        level=torch.zeros(n, dtype=torch.int64),
        prior_iou=torch.zeros(n),
        weight=torch.ones(n),
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


@pytest.mark.parametrize(
    ("dtype", "promoted"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_foreground_offsets_are_promoted_and_masked(dtype, promoted):
    offsets = samples_of([0, 2, -1], deltas_dtype=dtype).foreground_deltas
    assert offsets.dtype == promoted
    assert offsets.tolist() == [[1.0] * 4, [0.0] * 4, [0.0] * 4]

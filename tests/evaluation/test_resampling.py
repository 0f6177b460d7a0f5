"""AP of resampled images is what pycocotools says of a data set that holds each image as often."""

from copy import deepcopy

import numpy as np
import pytest
from coco_cases import detections_of, random_case, truth_of

from imbdet.evaluation.coco_ap import evaluate
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.matching import IOUS
from imbdet.evaluation.resampling import match, resampled_ap

METRICS = {"AP": slice(None), "AP50": [0], "AP75": [5], "AP90": [8]}


def repeated(truth, detections, weights):
    """The data set with image i, by ascending id, as often as weights[i] says; copies are images of their own."""
    made = {**deepcopy(truth), "images": [], "annotations": []}
    parts = []
    for i, times in enumerate(weights):
        image = sorted(entry["id"] for entry in truth["images"])[i]
        own = detections.select(detections.image_id == image)
        for copy in range(times):
            new = len(made["images"]) + 1
            made["images"].append({"id": new, "width": 400, "height": 400, "file_name": f"{image}-{copy}.bmp"})
            boxes = [a for a in truth["annotations"] if a["image_id"] == image]
            made["annotations"] += [
                {**a, "id": len(made["annotations"]) + n, "image_id": new} for n, a in enumerate(boxes)
            ]
            ids = np.full(len(own), new, np.int64)
            parts.append(Detections(ids, own.category_id, own.bbox, own.score))
    return made, Detections.concatenate(parts)


def assert_equal_to_pycocotools(resampled, truth, detections):
    expected = evaluate(truth, detections, 0.3).metrics
    for name, rows in METRICS.items():
        if expected[name] is None:
            assert np.isnan(resampled).all()
        else:
            assert resampled[rows].mean() == pytest.approx(expected[name], rel=0, abs=1e-12)


def images(truth):
    return len(truth["images"])


@pytest.mark.parametrize("seed", range(25))
def test_each_image_once_is_pycocotools(seed):
    truth, detections = random_case(seed)
    (ap,) = resampled_ap(match(truth, detections), np.ones((1, images(truth)), np.int64))
    assert_equal_to_pycocotools(ap, truth, detections)


@pytest.mark.parametrize("seed", range(25))
def test_any_weights_are_pycocotools_on_the_repeated_images(seed):
    truth, detections = random_case(seed)
    weights = np.random.default_rng(seed).integers(0, 4, (3, images(truth)))
    for row, ap in zip(weights, resampled_ap(match(truth, detections), weights), strict=True):
        assert_equal_to_pycocotools(ap, *repeated(truth, detections, row))


@pytest.mark.parametrize("seed", range(10))
def test_equal_scores_are_taken_in_the_order_of_the_images(seed):
    truth, detections = random_case(seed)
    tied = Detections(*(getattr(detections, k) for k in ("image_id", "category_id", "bbox")), detections.score.round(1))
    (ap,) = resampled_ap(match(truth, tied), np.ones((1, images(truth)), np.int64))
    assert_equal_to_pycocotools(ap, truth, tied)


def test_of_equal_overlaps_the_last_box_is_taken_and_each_only_once():
    box = (10, 10, 20, 20)
    truth = truth_of([(1, 1, box), (1, 1, box), (1, 1, box, {"iscrowd": 1})])
    detections = detections_of([(1, 1, box, 0.9 - 0.1 * n) for n in range(4)])
    (one,) = match(truth, detections)
    assert one.taken.tolist() == [[True, True, False, False]] * len(IOUS)
    assert one.ignored.tolist() == [[False, False, True, True]] * len(IOUS)
    assert one.boxes.tolist() == [2]


def test_more_detections_than_the_limit_do_not_count():
    truth = truth_of([(1, 1, (10, 10, 20, 20))])
    detections = detections_of([(1, 1, (200, 200, 20, 20), 0.9)] * 100 + [(1, 1, (10, 10, 20, 20), 0.1)])
    once = np.ones((1, 1), np.int64)
    assert resampled_ap(match(truth, detections), once).max() == 0
    assert resampled_ap(match(truth, detections, limit=101), once).min() == pytest.approx(1 / 101)


def test_a_class_without_boxes_in_the_resample_is_left_out_and_without_any_there_is_no_ap():
    truth = truth_of([(1, 1, (10, 10, 20, 20)), (2, 2, (10, 10, 20, 20))], images=(1, 2), categories=(1, 2))
    detections = detections_of([(1, 1, (10, 10, 20, 20), 0.9)])
    ap = resampled_ap(match(truth, detections), np.array([[1, 1], [5, 0], [0, 2], [0, 0]]))
    assert ap[:3].tolist() == [[0.5] * len(IOUS), [1.0] * len(IOUS), [0.0] * len(IOUS)]
    assert np.isnan(ap[3]).all()


def test_no_detections_give_an_ap_of_0():
    truth = truth_of([(1, 1, (10, 10, 20, 20))])
    assert resampled_ap(match(truth, detections_of([])), np.ones((2, 1), np.int64)).tolist() == [[0.0] * len(IOUS)] * 2


def test_the_number_of_resamples_at_a_time_changes_nothing(monkeypatch):
    truth, detections = random_case(3)
    weights = np.random.default_rng(3).integers(0, 4, (7, images(truth)))
    whole = resampled_ap(match(truth, detections), weights)
    monkeypatch.setattr("imbdet.evaluation.resampling.AT_ONCE", 2)
    np.testing.assert_allclose(resampled_ap(match(truth, detections), weights), whole, rtol=0, atol=1e-15)

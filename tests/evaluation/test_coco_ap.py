"""AP, AR and counts: equal to their definitions, with the identities that follow from them."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from coco_cases import (
    IOUS,
    RECALLS,
    SIZES,
    average,
    counts,
    detections_of,
    perfect,
    precision_at_recalls,
    random_case,
    truth_of,
    verdicts,
)
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from imbdet.evaluation.averages import COUNT_IOUS
from imbdet.evaluation.coco_ap import evaluate
from imbdet.evaluation.detections import Detections

BOX, OTHER = (10, 10, 100, 100), (200, 200, 100, 100)


def at(metrics, iou=0.5):
    """(TP, FP, FN) at an IoU threshold."""
    row = next(c for c in metrics["operating_point"]["counts"] if c["iou"] == iou)
    return row["TP"], row["FP"], row["FN"]


@pytest.mark.parametrize("seed", range(6))
def test_averages_follow_the_definitions(seed):
    truth, detections = random_case(seed)
    metrics = evaluate(truth, detections, 0.3).metrics
    expected = {"AP": average(truth, detections, "AP")}
    for iou in (50, 75, 90):
        expected[f"AP{iou}"] = average(truth, detections, "AP", ious=[IOUS[(iou - 50) // 5]])
    for name, sizes in SIZES.items():
        expected[f"AP_{name}"] = average(truth, detections, "AP", sizes=sizes)
        expected[f"AR_{name}"] = average(truth, detections, "AR", sizes=sizes)
    for limit in (1, 10, 100):
        expected[f"AR_{limit}"] = average(truth, detections, "AR", limit=limit)
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_classes_and_curves_follow_the_definitions(seed):
    truth, detections = random_case(seed)
    result = evaluate(truth, detections, 0.3)
    for row in result.metrics["per_class"]:
        only = [row["category_id"]]
        assert row["AP"] == pytest.approx(average(truth, detections, "AP", categories=only), abs=1e-12)
        assert row["AP50"] == pytest.approx(average(truth, detections, "AP", ious=[0.5], categories=only), abs=1e-12)
        assert row["AR_100"] == pytest.approx(average(truth, detections, "AR", categories=only), abs=1e-12)
    for iou in COUNT_IOUS:
        of_classes = [verdicts(truth, detections, c["id"], iou) for c in truth["categories"]]
        expected = np.mean([precision_at_recalls(*v) for v in of_classes if v[1]], axis=0)
        curve = result.curves[result.curves["iou"] == str(iou)]
        np.testing.assert_array_equal(curve["recall"], np.round(RECALLS, 2))
        np.testing.assert_allclose(curve["precision"], expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("score", [0.0, 0.3, 0.8])
def test_counts_follow_the_definitions(seed, score):
    truth, detections = random_case(seed)
    metrics = evaluate(truth, detections, score).metrics
    assert metrics["operating_point"]["score"] == score
    for iou in COUNT_IOUS:
        assert at(metrics, iou) == counts(truth, detections, iou, score)


@pytest.mark.parametrize("seed", range(3))
def test_record_is_consistent_with_itself(seed):
    truth, detections = random_case(seed)
    result = evaluate(truth, detections, 0.3)
    metrics = result.metrics
    assert metrics["boxes"] == sum(row["boxes"] for row in metrics["per_class"])
    defined = [row["AP"] for row in metrics["per_class"] if row["AP"] is not None]
    assert metrics["AP"] == pytest.approx(np.mean(defined))
    means = result.curves.groupby("iou")["precision"].mean()
    for iou, key in (("0.5", "AP50"), ("0.75", "AP75"), ("0.9", "AP90"), ("mean", "AP")):
        assert means[iou] == pytest.approx(metrics[key])
    for row in metrics["operating_point"]["counts"]:
        assert row["TP"] + row["FN"] == metrics["boxes"]
        assert row["precision"] == pytest.approx(row["TP"] / (row["TP"] + row["FP"]))
        assert row["recall"] == pytest.approx(row["TP"] / metrics["boxes"])


def test_numbers_equal_the_usual_route_through_files(tmp_path):
    """``COCO(file).loadRes(list)`` and ``summarize()``, as COCO's own demo does it."""
    truth, detections = random_case(3)
    for number, annotation in enumerate(truth["annotations"]):
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        annotation.setdefault("iscrowd", 0)
        annotation["id"] = number + 1
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    columns = (detections.image_id, detections.category_id, detections.bbox.astype(float), detections.score)
    keys = ("image_id", "category_id", "bbox", "score")
    results = [dict(zip(keys, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(tmp_path / "truth.json")
        coco = COCOeval(ground_truth, ground_truth.loadRes(results), "bbox")
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    keys = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    keys += ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
    metrics = evaluate(truth, detections, 0.3).metrics
    assert [metrics[key] for key in keys] == pytest.approx(coco.stats.tolist(), abs=1e-15)


@pytest.mark.parametrize("seed", range(4))
def test_perfect_detections_score_1_and_miss_nothing(seed):
    truth, _ = random_case(seed)
    metrics = evaluate(truth, perfect(truth), 0.3).metrics
    for key in ("AP", "AP50", "AP75", "AP90", "AR_100"):
        assert metrics[key] == pytest.approx(1)
    for iou in COUNT_IOUS:
        assert at(metrics, iou) == (metrics["boxes"], 0, 0)


def test_duplicates_add_false_positives_only():
    truth, _ = random_case(1)
    truth["annotations"] = [a for a in truth["annotations"] if not a.get("iscrowd")]  # which would swallow duplicates
    once = perfect(truth)
    twice = Detections.concatenate([once, once])
    before, after = evaluate(truth, once, 0.3).metrics, evaluate(truth, twice, 0.3).metrics
    for iou in COUNT_IOUS:
        true, false, missed = at(before, iou)
        assert at(after, iou) == (true, false + len(once), missed)


def test_a_duplicate_of_the_lower_score_is_the_false_one():
    truth = truth_of([(1, 1, BOX)])
    near = (12, 10, 100, 100)
    metrics = evaluate(truth, detections_of([(1, 1, BOX, 0.6), (1, 1, near, 0.9)]), 0.7).metrics
    assert at(metrics) == (1, 0, 0)
    assert metrics["AP50"] == pytest.approx(1)


def test_below_the_operating_score_nothing_is_counted():
    truth, detections = random_case(2)
    metrics = evaluate(truth, detections, 1.0).metrics
    for row in metrics["operating_point"]["counts"]:
        assert (row["TP"], row["FP"], row["FN"]) == (0, 0, metrics["boxes"])
        assert row["precision"] is None
        assert row["recall"] == 0
    assert metrics["AP"] == evaluate(truth, detections, 0.0).metrics["AP"]


def test_a_detection_at_the_operating_score_is_counted():
    truth, found = truth_of([(1, 1, BOX)]), detections_of([(1, 1, BOX, 0.5)])
    assert at(evaluate(truth, found, 0.5).metrics) == (1, 0, 0)
    assert at(evaluate(truth, found, 0.5001).metrics) == (0, 0, 1)


def test_detections_inside_a_crowd_region_change_no_count_and_no_average():
    truth = truth_of([(1, 1, BOX), (1, 1, OTHER, {"iscrowd": 1})])
    own = detections_of([(1, 1, BOX, 0.8)])
    inside = detections_of([(1, 1, (210, 210, 30, 30), 0.9), (1, 1, (250, 250, 40, 40), 0.85)])
    alone, both = (evaluate(truth, d, 0.3).metrics for d in (own, Detections.concatenate([own, inside])))
    assert at(both) == at(alone) == (1, 0, 0)
    assert both["AP"] == alone["AP"] == pytest.approx(1)


def test_the_right_box_of_the_wrong_class_is_false_and_leaves_the_box_missed():
    truth = truth_of([(1, 1, BOX)], categories=(1, 2))
    metrics = evaluate(truth, detections_of([(1, 2, BOX, 0.9)]), 0.3).metrics
    assert at(metrics) == (0, 1, 1)
    assert metrics["AP"] == 0
    assert metrics["per_class"][1]["AP"] is None, "a class without boxes has no AP"


@pytest.mark.parametrize("number", [0, 17])
def test_an_annotation_may_have_the_id_0(number):
    truth = truth_of([(1, 1, BOX)])
    truth["annotations"][0]["id"] = number
    assert evaluate(truth, perfect(truth), 0.3).metrics["AP"] == pytest.approx(1)


def test_no_detections_at_all():
    truth, _ = random_case(0)
    result = evaluate(truth, Detections.concatenate([]), 0.3)
    assert (result.metrics["detections"], result.metrics["AP"], result.metrics["AR_100"]) == (0, 0, 0)
    assert at(result.metrics) == (0, 0, result.metrics["boxes"])
    assert (result.curves["precision"] == 0).all()


def test_without_boxes_averages_are_undefined_and_detections_are_false():
    result = evaluate(truth_of([]), detections_of([(1, 1, BOX, 0.9)]), 0.3)
    assert result.metrics["AP"] is None
    assert result.metrics["AR_small"] is None
    assert at(result.metrics) == (0, 1, 0)
    assert result.metrics["operating_point"]["counts"][0]["recall"] is None
    assert result.curves["precision"].isna().all()


def test_more_than_100_detections_count_only_where_the_detector_may_give_more():
    """The limit is per image and class: 150 false boxes in front of the right one are past it or not."""
    truth = truth_of([(1, 1, BOX)])
    wrong = [(1, 1, OTHER, 0.9 - i / 1e4) for i in range(150)]
    detections = detections_of([*wrong, (1, 1, BOX, 0.1)])
    assert evaluate(truth, detections, 0.0, detections_per_image=100).metrics["AP50"] == 0
    metrics = evaluate(truth, detections, 0.0, detections_per_image=300).metrics
    assert metrics["AP50"] == pytest.approx(1 / 151)
    assert metrics["AR_100"] == 0, "the key says 100, whatever the detector's cap"
    assert at(metrics) == (1, 150, 0)


def test_area_decides_the_size_where_the_file_states_it():
    """COCO's area is that of the outline: a box of 100 x 100 around a thin object is small."""
    thin = evaluate(truth_of([(1, 1, BOX, {"area": 900})]), perfect(truth_of([(1, 1, BOX)])), 0.3).metrics
    plain = evaluate(truth_of([(1, 1, BOX)]), perfect(truth_of([(1, 1, BOX)])), 0.3).metrics
    assert (thin["AP_small"], thin["AP_large"]) == (pytest.approx(1), None)
    assert (plain["AP_small"], plain["AP_large"]) == (None, pytest.approx(1))


def test_inputs_are_not_modified_and_nothing_is_printed(capfd):
    truth, detections = random_case(4)
    before = copy.deepcopy(truth)
    evaluate(truth, detections, 0.3)
    assert truth == before
    assert capfd.readouterr() == ("", "")

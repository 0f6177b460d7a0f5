"""LVIS: equal to the LVIS API's own numbers (``lvis_expected.json``), and its rules one by one."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from coco_cases import detections_of, truth_of
from lvis_cases import CASES, CROWDED, EXCERPT, SCORE, detections_on
from promises import refused

from imbdet.data.coco import parse_annotations
from imbdet.evaluation.averages import COUNT_IOUS
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.fast import average_precision
from imbdet.evaluation.lvis_ap import evaluate

EXPECTED = json.loads(Path(__file__).with_name("lvis_expected.json").read_text(encoding="utf-8"))
BOX, OTHER = (10, 10, 100, 100), (200, 200, 100, 100)


NEEDS_EXCERPT = pytest.mark.skipif(not EXCERPT.exists(), reason="needs the excerpt of LVIS v0.5 beside the project")


@pytest.fixture(scope="module", params=["made up", pytest.param("excerpt", marks=NEEDS_EXCERPT)])
def case(request):
    """Name of a case, its truth, its rows and our evaluation of them."""
    make, seed = CASES[request.param]
    truth = make()
    rows = detections_on(truth, seed)
    return request.param, truth, rows, evaluate(truth, detections_of(rows), SCORE)


def small(boxes, categories="rcf", **images):
    """Image 1, one category for each frequency, and the lists that LVIS has of an image."""
    truth = truth_of(boxes, categories=range(1, len(categories) + 1))
    for category, frequency in zip(truth["categories"], categories, strict=True):
        category["frequency"] = frequency
    truth["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []} | images
    return truth


def count(truth, rows, score=0.0):
    """(TP, FP, FN) at IoU 0.5."""
    row = evaluate(truth, detections_of(rows), score).metrics["operating_point"]["counts"][0]
    return row["TP"], row["FP"], row["FN"]


@pytest.mark.promise("LVIS evaluation gives the numbers of the LVIS API", "law")
def test_averages_are_those_of_the_lvis_api(case, record_property):
    name, _, _, result = case
    expected = EXPECTED[name]["metrics"]
    assert {key: result.metrics[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    record_property("count", len(expected))


@pytest.mark.promise("LVIS evaluation gives the numbers of the LVIS API", "law")
def test_classes_counts_and_curve_are_those_of_the_lvis_api(case, record_property):
    name, _, rows, result = case
    expected = EXPECTED[name]
    assert result.metrics["detections"] == expected["detections"] == len(rows)
    assert [row["AP"] for row in result.metrics["per_class"]] == pytest.approx(expected["per_class"], abs=1e-12)
    for row in result.metrics["operating_point"]["counts"]:
        true, false, boxes = expected["counts"][str(row["iou"])]
        assert (row["TP"], row["FP"], row["FN"]) == (true, false, boxes - true)
    mean = result.curves.query("iou == 'mean'")["precision"].to_numpy()
    np.testing.assert_allclose(mean[::10], expected["curve"], atol=1e-12)
    assert len(mean) == 101
    assert len(result.curves) == 101 * (len(COUNT_IOUS) + 1)
    record_property("count", sum(ap is not None for ap in expected["per_class"]))


@pytest.mark.promise("LVIS evaluation gives the numbers of the LVIS API", "law")
def test_evaluation_while_training_knows_lvis(case):
    name, truth, rows, _ = case
    expected = {key: EXPECTED[name]["metrics"][key] for key in ("AP", "AP50", "AP75")}
    assert average_precision(truth, detections_of(rows), rules="lvis") == pytest.approx(expected, abs=1e-12)


def test_the_cases_hold_what_makes_them_hard(case):
    """More than 300 detections on an image, equal scores, unlabelled and incomplete categories, no box in a class."""
    _, truth, rows, result = case
    looked_for = {(a["image_id"], a["category_id"]) for a in truth["annotations"]}
    looked_for |= {(image["id"], category) for image in truth["images"] for category in image["neg_category_ids"]}
    assert sum(row[0] == truth["images"][0]["id"] for row in rows) > CROWDED > 300
    assert len({row[3] for row in rows}) < len(rows) / 4
    assert any((image, category) not in looked_for for image, category, _, _ in rows)
    assert any(image["not_exhaustive_category_ids"] for image in truth["images"])
    assert None in [row["AP"] for row in result.metrics["per_class"]]


def test_every_group_is_the_mean_of_its_classes(case):
    _, truth, _, result = case
    groups = {category["id"]: category["frequency"] for category in truth["categories"]}
    for key, group in {"AP_rare": "r", "AP_common": "c", "AP_frequent": "f"}.items():
        rows = [row for row in result.metrics["per_class"] if groups[row["category_id"]] == group]
        assert {row["frequency"] for row in rows} == {group}
        defined = [row["AP"] for row in rows if row["AP"] is not None]
        assert result.metrics[key] == pytest.approx(np.mean(defined), abs=1e-12)


def test_a_category_that_nobody_looked_for_changes_nothing():
    truth = small([(1, 1, BOX)])
    alone = [(1, 1, BOX, 0.8)]
    assert count(truth, [*alone, (1, 2, OTHER, 0.9)]) == count(truth, alone) == (1, 0, 0)
    assert count(small([(1, 1, BOX)], neg_category_ids=[2]), [*alone, (1, 2, OTHER, 0.9)]) == (1, 1, 0)


def test_where_labels_are_incomplete_only_unmatched_detections_are_pardoned():
    rows = [(1, 1, OTHER, 0.9), (1, 1, BOX, 0.8)]
    strict = evaluate(small([(1, 1, BOX)]), detections_of(rows), 0.0).metrics
    pardoned = evaluate(small([(1, 1, BOX)], not_exhaustive_category_ids=[1]), detections_of(rows), 0.0).metrics
    assert (strict["AP50"], pardoned["AP50"]) == (pytest.approx(0.5), pytest.approx(1))
    assert [m["operating_point"]["counts"][0]["FP"] for m in (strict, pardoned)] == [1, 0]


def test_the_limit_is_of_an_image_over_all_categories():
    """300 better detections of other categories push the right one out, which COCO's limit would not."""
    truth = small([(1, 1, BOX)], neg_category_ids=[2, 3])
    others = [(1, 2 + i % 2, OTHER, 0.9) for i in range(300)]
    assert evaluate(truth, detections_of([*others, (1, 1, BOX, 0.1)]), 0.0).metrics["AP50"] == 0
    assert evaluate(truth, detections_of([*others[1:], (1, 1, BOX, 0.1)]), 0.0).metrics["AP50"] == pytest.approx(1)


def test_of_equal_scores_at_the_limit_the_first_stay():
    truth = small([(1, 1, BOX)], neg_category_ids=[2])
    others = [(1, 2, OTHER, 0.5)] * 300
    assert evaluate(truth, detections_of([(1, 1, BOX, 0.5), *others]), 0.0).metrics["AP50"] == pytest.approx(1)
    assert evaluate(truth, detections_of([*others, (1, 1, BOX, 0.5)]), 0.0).metrics["AP50"] == 0


def test_there_are_no_crowd_regions():
    truth = small([(1, 1, BOX, {"iscrowd": 1})])
    assert count(truth, [(1, 1, BOX, 0.9), (1, 1, BOX, 0.8)]) == (1, 1, 0)


@pytest.mark.parametrize("boxes", [[], [(1, 1, BOX)]])
def test_no_detections_at_all(boxes):
    metrics = evaluate(small(boxes), Detections.concatenate([]), 0.3).metrics
    assert metrics["AP"] == metrics["AR_300"] == (0 if boxes else None)
    assert metrics["AP_frequent"] is None


def test_the_truth_is_not_modified_and_nothing_is_printed(capfd):
    truth = small([(1, 1, BOX)])
    before = deepcopy(truth)
    evaluate(truth, detections_of([(1, 1, BOX, 0.5)]), 0.3)
    assert truth == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.promise("Detections of other data are refused, not dropped", "bad input")
@pytest.mark.parametrize(
    ("row", "message"),
    [((99, 1, BOX, 0.5), "detections name image id 99, not in"), ((1, 42, BOX, 0.5), "name category id 42, not in")],
)
def test_detections_of_other_data_are_refused(row, message):
    with refused(message):
        evaluate(small([(1, 1, BOX)]), detections_of([row]), 0.3)


@pytest.mark.promise("LVIS evaluation refuses annotations that are not of LVIS", "bad input")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda truth: truth["categories"][1].pop("frequency"), r"category 2 has frequency None; LVIS has r, c, f"),
        (lambda truth: truth["categories"][0].update(frequency="x"), "category 1 has frequency 'x'"),
        (lambda truth: truth["images"][0].pop("neg_category_ids"), "image 1 has neg_category_ids None; .*`data`"),
        (
            lambda truth: truth["images"][0].update(not_exhaustive_category_ids=3),
            "image 1 has not_exhaustive_category_ids 3; LVIS has a list",
        ),
        (
            lambda truth: truth["images"][0].update(neg_category_ids=[77]),
            "annotations name category id 77, not in .* restore the file",
        ),
    ],
)
def test_annotations_of_another_kind_are_refused(change, message):
    truth = small([(1, 1, BOX)])
    change(truth)
    with refused(message):
        evaluate(truth, Detections.concatenate([]), 0.3)


@NEEDS_EXCERPT
def test_image_counts_follow_from_the_annotations_and_groups_do_not():
    """The excerpt counts its own 100 images, while its groups r, c and f are those of the training set."""
    truth = CASES["excerpt"][0]()
    objects = parse_annotations(truth, EXCERPT).objects
    pairs = np.unique(np.stack([objects.labels, objects.images]), axis=1)
    counts = np.bincount(pairs[0], minlength=len(truth["categories"]))
    stated = {category["id"]: category["image_count"] for category in truth["categories"]}
    assert counts.tolist() == [stated[key] for key in sorted(stated)]
    assert max(stated.values()) <= 10 < sum(category["frequency"] == "f" for category in truth["categories"])

"""The fast evaluator gives pycocotools' numbers: each class, size, limit and threshold, where they could part."""

import copy

import numpy as np
import pytest
from coco_cases import detections_of, perfect, random_case, truth_of
from hypothesis import given, settings
from hypothesis import strategies as st
from promises import refused

from imbdet.evaluation import coco_ap
from imbdet.evaluation.averages import COUNT_IOUS, averages, curve_table, mean, per_class, threshold
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.fast import average_precision
from imbdet.evaluation.matching import AREAS, IOUS, Boxes, Found, curves, matched

BOX, OTHER = (10, 10, 100, 100), (200, 200, 100, 100)
EQUAL = pytest.mark.promise("Evaluation while training gives the numbers of pycocotools", "law")


def assert_same(truth, detections, limit=100):
    """All averages, classes, curves and counts by both ways, within 1e-12; returns AP50."""
    reference = coco_ap.evaluate(truth, detections, 0.4, limit)
    boxes, found, classes = Boxes.of(truth), Found.of(detections, truth), len(truth["categories"])
    precision, recall = curves(boxes, found, classes, AREAS, limit)
    ours = averages(precision, recall)
    recalls = {k: curves(boxes, found, classes, limit=k)[1][..., 0] for k in coco_ap.AR_LIMITS}
    ours |= {f"AR_{k}": mean(values) for k, values in recalls.items()}
    assert ours == pytest.approx({key: reference.metrics[key] for key in ours}, abs=1e-12)
    by_class = np.bincount(boxes.label[~boxes.crowd], minlength=classes)
    for row, expected in zip(
        per_class(truth, by_class, precision[..., 0], recalls[100]), reference.metrics["per_class"], strict=True
    ):
        assert row == pytest.approx(expected, abs=1e-12)
    for column in ("recall", "precision"):
        np.testing.assert_allclose(curve_table(precision[..., 0])[column], reference.curves[column], atol=1e-12)
    fast = average_precision(truth, detections, limit)
    assert fast == pytest.approx({key: reference.metrics[key] for key in ("AP", "AP50", "AP75")}, abs=1e-12)
    assert all(value is None or type(value) is float for value in fast.values())
    return fast["AP50"]


@EQUAL
@pytest.mark.parametrize("seed", range(8))
def test_random_data(seed):
    assert_same(*random_case(seed))


corner = st.integers(0, 40)
side = st.sampled_from([1, 4, 16, 20, 31, 32, 33, 96, 97])
box = st.tuples(corner, corner, side, side)
some_image, some_category = st.sampled_from([3, 5, 2**54 + 1, 2**54]), st.sampled_from([1, 7, 8])
crowd = st.sampled_from([{}, {}, {"iscrowd": 0}, {"iscrowd": 1}, {"area": 1024}, {"area": 9216}, {"area": 0.5}])
score = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])


@EQUAL
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(some_image, some_category, box, crowd), max_size=12),
    st.lists(st.tuples(some_image, some_category, box, score), max_size=30),
)
def test_any_data_with_equal_scores_crowds_and_exact_overlaps(boxes, rows):
    assert_same(truth_of(boxes, (5, 3, 2**54, 2**54 + 1), (8, 1, 7)), detections_of(rows))


@EQUAL
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_equal_scores_keep_their_order(order):
    rows = [(1, 1, BOX, 0.5), (1, 1, OTHER, 0.5), (2, 1, BOX, 0.5), (2, 1, (0, 0, 5, 5), 0.5)]
    truth = truth_of([(1, 1, BOX), (2, 1, BOX), (2, 1, OTHER)], images=(1, 2))
    assert_same(truth, detections_of([rows[i] for i in order]))


@EQUAL
@pytest.mark.parametrize("share", [0.5, 0.55, 0.75, 0.9, 0.95, 1.0])
def test_an_overlap_of_exactly_a_threshold(share):
    """100 * share wide in a box of 100, from whole and from broken corners."""
    for x in (10, 10.1, 0.3):
        found = detections_of([(1, 1, (x, 10, 100 * share, 100), 0.9)])
        assert_same(truth_of([(1, 1, (x, 10, 100, 100))]), found)
        assert_same(truth_of([(1, 1, (x, 10, 100, 100), {"iscrowd": 1})]), found)


@EQUAL
@pytest.mark.parametrize(
    ("side", "sizes"),
    [
        (31, ["small"]),
        (32, ["small", "medium"]),
        (33, ["medium"]),
        (95, ["medium"]),
        (96, ["medium", "large"]),
        (97, ["large"]),
    ],
)
def test_areas_at_the_bounds(side, sizes):
    """Both bounds belong to both sizes, for boxes as for detections."""
    square, near = (10, 10, side, side), (11, 11, side, side)
    truth = truth_of([(1, 1, square), (1, 2, OTHER, {"area": side * side})], categories=(1, 2))
    assert_same(truth, detections_of([(1, 1, near, 0.9), (1, 1, square, 0.8), (1, 2, square, 0.7), (1, 2, OTHER, 0.6)]))
    precision, _ = curves(Boxes.of(truth), Found.of(perfect(truth), truth), 2, AREAS)
    defined = (precision[0, 0, 0] > -1).tolist()
    assert [size for size, known in zip(("small", "medium", "large"), defined[1:], strict=True) if known] == sizes


@EQUAL
@pytest.mark.parametrize(("number", "limit"), [(99, 100), (100, 100), (101, 100), (150, 100), (150, 300), (301, 300)])
def test_more_detections_than_the_limit(number, limit):
    """Of one class, and of two that do not share it."""
    wrong = [(1, 1 + i % 2, OTHER, 0.9 - i / 1e4) for i in range(2 * number - 1)]
    ap50 = assert_same(truth_of([(1, 2, BOX)], categories=(1, 2)), detections_of([*wrong, (1, 2, BOX, 0.1)]), limit)
    assert ap50 == pytest.approx(1 / number if number <= limit else 0)


@EQUAL
def test_scores_that_float32_cannot_tell_apart_and_some_that_it_can():
    rows = [(1, 1, OTHER, 0.1), (1, 1, BOX, np.nextafter(np.float32(0.1), 1)), (1, 1, BOX, 0.1 + 1e-12)]
    assert_same(truth_of([(1, 1, BOX)]), detections_of(rows))


@EQUAL
@pytest.mark.parametrize(
    ("boxes", "rows"),
    [
        ([], []),
        ([], [(1, 1, BOX, 0.9)]),
        ([(1, 1, BOX)], []),
        ([(1, 1, BOX, {"iscrowd": 1})], [(1, 1, BOX, 0.9), (1, 1, OTHER, 0.8)]),
        ([(1, 1, BOX), (3, 2, BOX)], [(2, 1, BOX, 0.9), (1, 1, BOX, 0.8), (3, 9, BOX, 0.7)]),
        ([(1, 1, BOX)], [(1, 1, (10, 10, 0, 0), 0.9), (1, 1, (10, 10, 100, 0), 0.8), (1, 1, BOX, 0.7)]),
        ([(1, 1, BOX)] * 3, [(1, 1, BOX, 0.9), (1, 1, BOX, 0.8)]),
        ([(1, 1, (10, 10, 50, 50), {"iscrowd": 1}), (1, 1, BOX)], [(1, 1, (10, 10, 50, 50), s) for s in (0.9, 0.8)]),
    ],
    ids=[
        "nothing",
        "no boxes",
        "no detections",
        "crowds alone",
        "empty images and missing classes",
        "detections without area",
        "equal boxes",
        "a crowd region is taken twice",
    ],
)
def test_what_is_empty_or_odd(boxes, rows):
    assert_same(truth_of(boxes, (3, 1, 2), (9, 1, 2)), detections_of(rows))


@EQUAL
def test_an_annotation_may_have_the_id_0():
    truth = truth_of([(1, 1, BOX)])
    assert truth["annotations"][0]["id"] == 0
    assert assert_same(truth, perfect(truth)) == pytest.approx(1)


@EQUAL
@pytest.mark.parametrize("seed", range(4))
def test_detections_that_take_a_box_are_the_true_ones(seed):
    """But for those inside crowd regions, which take them and do not count."""
    truth, detections = random_case(seed)
    truth["annotations"] = [a for a in truth["annotations"] if not a.get("iscrowd")]
    boxes, found = Boxes.of(truth), Found.of(detections, truth)
    kept = found.select(found.score >= 0.4)
    rows = coco_ap.evaluate(truth, detections, 0.4).metrics["operating_point"]["counts"]
    for iou, row in zip(COUNT_IOUS, rows, strict=True):
        taken = matched(boxes, kept, len(truth["categories"]), IOUS[threshold(iou)])
        assert (taken.sum(), (~taken).sum()) == (row["TP"], row["FP"])


def test_beyond_the_limit_no_detection_takes_a_box():
    truth, rows = truth_of([(1, 1, BOX), (1, 1, OTHER)]), [(1, 1, BOX, 0.9), (1, 1, OTHER, 0.8)]
    sides = Boxes.of(truth), Found.of(detections_of(rows), truth)
    assert [matched(*sides, 1, 0.5, limit).tolist() for limit in (1, 2)] == [[True, False], [True, True]]


@pytest.mark.promise("Detections of other data are refused, not dropped", "bad input")
@pytest.mark.parametrize(
    ("row", "message"),
    [((99, 1, BOX, 0.5), "detections name image id 99, not in"), ((1, 42, BOX, 0.5), "name category id 42, not in")],
)
@pytest.mark.parametrize("way", [average_precision, lambda truth, found: coco_ap.evaluate(truth, found, 0.3)])
def test_detections_of_other_data_are_refused(way, row, message):
    with refused(message):
        way(truth_of([(1, 1, BOX)]), detections_of([(1, 1, BOX, 0.9), row]))


@pytest.mark.promise("Annotations that name what they do not list are refused", "bad input")
@pytest.mark.parametrize(
    ("row", "message"),
    [((99, 1, BOX), "annotations name image id 99, not in"), ((1, 42, BOX), "annotations name category id 42, not in")],
)
@pytest.mark.parametrize("way", [average_precision, lambda truth, found: coco_ap.evaluate(truth, found, 0.3)])
def test_annotations_of_unknown_images_and_categories_are_refused(way, row, message):
    with refused(message):
        way(truth_of([(1, 1, BOX), row]), Detections.concatenate([]))


def test_inputs_are_not_modified_and_nothing_is_printed(capfd):
    truth, detections = random_case(4)
    before = copy.deepcopy(truth)
    average_precision(truth, detections)
    assert truth == before
    assert capfd.readouterr() == ("", "")

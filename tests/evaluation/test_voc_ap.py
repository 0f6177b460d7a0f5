"""AP by VOC's rules: equal to a slow copy of the development kit's steps, and the laws of its own."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from coco_cases import detections_of, perfect, random_case, truth_of
from hypothesis import given, settings
from hypothesis import strategies as st
from promises import refused

from imbdet.evaluation import coco_ap
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.voc_ap import evaluate
from imbdet.layout import Layout
from imbdet.study_file import load_study

EXACT = pytest.mark.promise("VOC evaluation gives the numbers of the development kit's steps", "law")
LAWS = pytest.mark.promise("VOC's AP does not depend on the order of images, boxes or unequal scores", "law")
DIFFICULT = {"iscrowd": 1}


def overlap_of_pixels(a, b):
    """IoU as the kit has it: corners are pixels from 1, and both lie inside the box."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = ((x + 1, y + 1, x + w, y + h) for x, y, w, h in (a, b))
    iw, ih = min(ax2, bx2) - max(ax1, bx1) + 1, min(ay2, by2) - max(ay1, by1) + 1
    if iw <= 0 or ih <= 0:
        return None
    return iw * ih / ((ax2 - ax1 + 1) * (ay2 - ay1 + 1) + (bx2 - bx1 + 1) * (by2 - by1 + 1) - iw * ih)


def reference(truth, detections, category):
    """``VOCevaldet.m`` step by step for one class: AP of the whole area and at 11 recalls, None without a box."""
    gt = {image["id"]: [] for image in truth["images"]}
    for a in truth["annotations"]:
        if a["category_id"] == category:
            gt[a["image_id"]].append({"box": a["bbox"], "difficult": bool(a.get("iscrowd", 0)), "detected": False})
    npos = sum(not o["difficult"] for objects in gt.values() for o in objects)
    rows = [i for i in range(len(detections)) if detections.category_id[i] == category]
    rows.sort(key=lambda i: (-float(detections.score[i]), int(detections.image_id[i])))
    tp, fp = [0], [0]
    for i in rows:
        best, largest = None, -1.0
        for o in gt[int(detections.image_id[i])]:
            overlap = overlap_of_pixels([float(v) for v in detections.bbox[i]], o["box"])
            if overlap is not None and overlap > largest:
                best, largest = o, overlap
        right = wrong = 0
        if largest >= 0.5:
            if not best["difficult"]:
                right, wrong = (0, 1) if best["detected"] else (1, 0)
                best["detected"] = True
        else:
            wrong = 1
        tp.append(tp[-1] + right)
        fp.append(fp[-1] + wrong)
    if not npos:
        return None, None
    steps = [(Fraction(t, npos), t / (t + f)) for t, f in zip(tp[1:], fp[1:], strict=True) if t + f]
    at = [max((p for r, p in steps if r >= Fraction(k, 10)), default=0.0) for k in range(11)]
    recalls = [Fraction(0), *(r for r, _ in steps), Fraction(1)]
    precisions = [0.0, *(p for _, p in steps), 0.0]
    for k in range(len(precisions) - 2, -1, -1):
        precisions[k] = max(precisions[k], precisions[k + 1])
    area = sum(float(recalls[k] - recalls[k - 1]) * precisions[k] for k in range(1, len(recalls)))
    return area, sum(at) / 11


def same_as_reference(truth, detections):
    means, rows = evaluate(truth, detections)
    expected = [reference(truth, detections, c["id"]) for c in sorted(truth["categories"], key=lambda c: c["id"])]
    for row, pair in zip(rows, expected, strict=True):
        assert [row["VOC_AP"], row["VOC_AP11"]] == pytest.approx(list(pair), abs=1e-12)
    for key, values in zip(("VOC_AP", "VOC_AP11"), zip(*expected, strict=True), strict=True):
        defined = [value for value in values if value is not None]
        assert means[key] == pytest.approx(np.mean(defined) if defined else None, abs=1e-12)


@EXACT
@pytest.mark.parametrize("seed", range(40))
def test_random_cases_are_those_of_the_kit(seed):
    """Difficult objects, near misses, duplicates, a class without boxes; every third with many equal scores."""
    truth, found = random_case(seed)
    if seed % 3 == 0:
        found = Detections(found.image_id, found.category_id, found.bbox, np.round(found.score, 1))
    same_as_reference(truth, found)


places = st.integers(0, 12)
sides = st.integers(1, 12)
objects = st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 4]), st.tuples(places, places, sides, sides))
marks = st.sampled_from([{}, DIFFICULT])
scored = st.tuples(objects, st.sampled_from([0.25, 0.5, 0.75]))


@EXACT
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(objects, marks), max_size=8), st.lists(scored, max_size=10))
def test_crowded_small_boxes_are_those_of_the_kit(boxes, found):
    """On few pixels IoUs of exactly .5, equal IoUs and equal scores are common."""
    truth = truth_of([(*o, mark) for o, mark in boxes], images=(1, 2), categories=(1, 4))
    same_as_reference(truth, detections_of([(*o, score) for o, score in found]))


BOX, OTHER, FAR = [0, 0, 10, 10], [2, 0, 10, 10], [100, 100, 10, 10]


def ap(boxes, found, images=(1,)):
    means, _ = evaluate(truth_of(boxes, images), detections_of(found))
    return means["VOC_AP"], means["VOC_AP11"]


@EXACT
def test_by_hand():
    """Of four boxes the first, third and fourth detection find one; precision 1, 1/2, 2/3, 3/4."""
    boxes = [(1, 1, [30 * k, 0, 10, 10]) for k in range(4)]
    found = [
        (1, 1, box, score)
        for box, score in zip((boxes[0][2], FAR, boxes[1][2], boxes[2][2]), (4, 3, 2, 1), strict=True)
    ]
    area, sampled = ap(boxes, found)
    assert area == pytest.approx((1 + 3 / 4 + 3 / 4) / 4)
    assert sampled == pytest.approx((3 * 1 + 5 * 3 / 4) / 11)  # recalls 0, .1, .2, then .3 to .7


@EXACT
def test_a_recall_of_three_tenths_reaches_it():
    """In floating point 3 * .1 is above 3 / 10, and the kit's loop may miss it."""
    boxes = [(1, 1, [30 * k, 0, 10, 10]) for k in range(10)]
    found = [(1, 1, box, 1 - k / 20) for k, (_, _, box) in enumerate(boxes[:3])]
    assert ap(boxes, found) == (pytest.approx(0.3), pytest.approx(4 / 11))


@EXACT
def test_an_overlap_of_exactly_a_half_is_enough():
    boxes, half = [(1, 1, BOX)], (1, 1, [0, 0, 10, 5], 0.9)
    same_as_reference(truth_of(boxes), detections_of([half]))
    assert ap(boxes, [half]) == (1, 1)
    assert ap(boxes, [(1, 1, [0, 0, 10, 4.99], 0.9)]) == (0, 0)


@EXACT
def test_of_boxes_that_overlap_equally_the_first_counts():
    for difficult_first in (True, False):
        boxes = [(1, 1, BOX, DIFFICULT if k == difficult_first else {}) for k in (True, False)]
        found = [(1, 1, BOX, 0.9)]
        same_as_reference(truth_of(boxes), detections_of(found))
        assert ap(boxes, found) == ((0, 0) if difficult_first else (1, 1))


def test_a_second_detection_is_wrong_even_if_another_box_is_free():
    """COCO's rules would give it the other box."""
    boxes, found = [(1, 1, BOX), (1, 1, OTHER)], [(1, 1, BOX, 0.9), (1, 1, [0.5, 0, 10, 10], 0.8)]
    assert ap(boxes, found)[0] == pytest.approx(1 / 2)
    assert coco_ap.evaluate(truth_of(boxes), detections_of(found), 0.5).metrics["AP50"] == pytest.approx(1)


def test_difficult_objects_are_neither_right_nor_wrong_however_often_they_are_found():
    boxes = [(1, 1, FAR), (1, 1, BOX, DIFFICULT)]
    on_it = [(1, 1, BOX, 0.9), (1, 1, BOX, 0.8), (1, 1, [0, 0, 10, 9], 0.7)]
    assert ap(boxes, [*on_it, (1, 1, FAR, 0.1)]) == (1, 1)
    assert ap(boxes, [(1, 1, FAR, 0.1)]) == (1, 1)
    assert ap(boxes[1:], on_it) == (None, None)
    assert ap([boxes[0], (1, 1, BOX)], on_it)[0] == pytest.approx(1 / 2)


def test_a_small_detection_inside_of_a_difficult_object_is_wrong():
    """A crowd of COCO would take it, as all of it lies inside."""
    boxes = [(1, 1, FAR), (1, 1, BOX, DIFFICULT)]
    assert ap(boxes, [(1, 1, [4, 4, 2, 2], 0.9), (1, 1, FAR, 0.1)])[0] == pytest.approx(1 / 2)


def test_nothing_found_and_nothing_to_find():
    assert ap([(1, 1, BOX)], []) == (0, 0)
    assert ap([], []) == ap([], [(1, 1, BOX, 0.5)]) == (None, None)


@LAWS
@given(st.integers(0, 30), st.randoms(use_true_random=False))
def test_the_order_of_images_and_rows_does_not_matter(seed, rng):
    truth, found = random_case(seed)
    expected = evaluate(truth, found)
    shuffled = {key: rng.sample(values, len(values)) for key, values in truth.items()}
    assert evaluate(shuffled, found.select(np.array(rng.sample(range(len(found)), len(found)), int))) == expected


@LAWS
@given(st.integers(0, 30), st.floats(0.05, 5))
def test_only_the_order_of_scores_counts(seed, power):
    truth, found = random_case(seed)
    other = Detections(found.image_id, found.category_id, found.bbox, (found.score**power).astype(np.float32))
    assert evaluate(truth, other) == evaluate(truth, found)


@given(st.integers(0, 30))
def test_a_difficult_object_that_nothing_touches_changes_nothing(seed):
    truth, found = random_case(seed)
    added = {"id": 999, "image_id": 2, "category_id": 1, "bbox": [3000, 3000, 50, 50], "iscrowd": 1}
    assert evaluate(truth | {"annotations": [*truth["annotations"], added]}, found) == evaluate(truth, found)


@given(st.integers(0, 30))
def test_what_is_found_exactly_is_worth_all(seed):
    truth, _ = random_case(seed)
    truth["annotations"] = [a for a in truth["annotations"] if not a.get("iscrowd")]
    boxes = {(a["image_id"], a["category_id"], *a["bbox"]) for a in truth["annotations"]}
    assert len(boxes) == len(truth["annotations"])
    assert set(evaluate(truth, perfect(truth))[0].values()) <= {1.0, None}


@pytest.mark.promise("Detections of other data are refused, not dropped", "bad input")
def test_detections_of_another_image_are_refused():
    with refused("detections name image id 7, not in the annotations"):
        evaluate(truth_of([(1, 1, BOX)]), detections_of([(7, 1, BOX, 0.5)]))


@pytest.mark.parametrize(("source", "has_it"), [("voc_format", True), ("voc2007", True), ("coco_format", False)])
def test_the_record_of_vocs_data_has_it_beside_cocos_numbers(tmp_path, monkeypatch, source, has_it):
    study = load_study(Path(__file__).parents[1] / "pipeline" / "tiny.yaml")
    monkeypatch.chdir(tmp_path)
    data = {"source": source, "folder": "data", "path": "voc.zip", "splits": {"train": "a", "val": "b"}}
    known = {"voc2007": ("source", "folder"), "coco_format": ("source", "folder", "path")}.get(source, tuple(data))
    study = type(study).model_validate(study.model_dump() | {"data": {key: data[key] for key in known}})
    truth, found = random_case(3)
    layout, name = Layout.of(study), next(iter(study.experiments))
    layout.annotations("val").parent.mkdir(parents=True)
    layout.annotations("val").write_text(json.dumps(truth))
    found.save(layout.detections(name), layout.annotations("val"))
    coco_ap.run(study, layout, name)
    record = json.loads(layout.evaluation(name).read_text())
    means, rows = evaluate(truth, found)
    by_coco = coco_ap.evaluate(
        truth, found, study.evaluate.operating_score, study.evaluate.detections_per_image
    ).metrics
    assert record["AP"] == by_coco["AP"]
    assert means["VOC_AP"] != means["VOC_AP11"]
    if has_it:
        assert means.items() <= record.items()
        both = [row | more for row, more in zip(by_coco["per_class"], rows, strict=True)]
        assert record["per_class"] == both
    else:
        assert not {"VOC_AP", "VOC_AP11"} & (record.keys() | record["per_class"][0].keys())

"""Misstatements E1 to E7, E11 to E13 and E27: counting, metrics, readings of the paper."""

import csv
import json
import re

import numpy as np
import pytest
from pages import DOCS, ROOT

from imbdet.evaluation.coco_ap import evaluate
from imbdet.evaluation.cumulative import cumulative_share
from imbdet.evaluation.detections import Detections

BOX, FAR = (10, 10, 100, 100), (200, 200, 100, 100)


def result(boxes, found, score=0.0):
    """Metrics of detections (category, bbox, score) in one image with boxes (category, bbox[, is it a crowd?])."""
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": category, "bbox": list(bbox), "iscrowd": int(bool(crowd))}
            for n, (category, bbox, *crowd) in enumerate(boxes)
        ],
    }
    category, bbox, scores = zip(*found, strict=True) if found else ((), (), ())
    detections = Detections(
        np.ones(len(found), np.int64),
        np.array(category, np.int64),
        np.array(bbox, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
    )
    return evaluate(truth, detections, score).metrics


def counts(*arguments, **options):
    """(TP, FP, FN) at IoU 0.5."""
    row = result(*arguments, **options)["operating_point"]["counts"][0]
    return row["TP"], row["FP"], row["FN"]


def test_e01_positive_is_the_prediction():
    """TP + FP counts what the detector said, TP + FN what there is: nothing there and something said is FP."""
    assert counts([], [(1, BOX, 0.9)]) == (0, 1, 0)
    assert counts([(1, BOX)], []) == (0, 0, 1)
    assert counts([(1, BOX)], [(1, BOX, 0.9)]) == (1, 0, 0)


def test_e02_what_is_a_false_positive():
    right, near = (1, BOX, 0.9), (1, (14, 10, 100, 100), 0.8)
    assert counts([(1, BOX)], [right, near]) == (1, 1, 0), "a duplicate that remains"
    assert counts([(1, BOX)], [right]) == (1, 0, 0), "the same duplicate after NMS is in no count"
    assert counts([(1, BOX), (1, FAR, True)], [right, (1, (210, 210, 50, 50), 0.8)]) == (1, 0, 0), "inside a crowd"
    assert counts([(1, BOX)], [(2, BOX, 0.9)]) == (0, 1, 1), "the wrong class"
    assert counts([(1, BOX)], [(1, (100, 10, 100, 100), 0.9)]) == (0, 1, 1), "too small an IoU"


FOUND = [(1, BOX, 0.9), (1, (400, 0, 50, 50), 0.7), (1, (200, 200, 82, 100), 0.5), (1, (0, 400, 50, 50), 0.3)]


def test_e03_precision_has_a_threshold_and_ap_has_none():
    boxes = [(1, BOX), (1, FAR)]
    metrics = [result(boxes, FOUND, score) for score in (0.2, 0.4, 0.8)]
    assert [m["operating_point"]["counts"][0]["precision"] for m in metrics] == [2 / 4, 2 / 3, 1]
    assert [m["AP50"] for m in metrics] == pytest.approx([(51 * 1 + 50 * 2 / 3) / 101] * 3)


def test_e04_recall_has_a_threshold_and_ar_has_none():
    """Both boxes are found at thresholds up to 0.80 (seven of ten thresholds), one of them up to 0.95."""
    boxes = [(1, BOX), (1, FAR)]
    metrics = [result(boxes, FOUND, score) for score in (0.2, 0.8)]
    assert [m["operating_point"]["counts"][0]["recall"] for m in metrics] == [1, 1 / 2]
    assert [m["AR_100"] for m in metrics] == pytest.approx([(7 * 1 + 3 / 2) / 10] * 2)
    assert [m["AR_1"] for m in metrics] == pytest.approx([1 / 2] * 2)


@pytest.mark.parametrize(("width", "reached"), [(52, 1), (72, 5), (77, 6), (92, 9), (97, 10)])
def test_e05_ap_is_a_mean_over_ten_thresholds_and_over_classes(width, reached):
    """One detection of a known IoU is right at ``reached`` of the ten thresholds 0.50, 0.55, ..., 0.95."""
    found = [(1, (10, 10, width, 100), 0.9)]
    alone = result([(1, BOX)], found)
    assert alone["AP"] == pytest.approx(reached / 10)
    assert (alone["AP50"], alone["AP75"], alone["AP90"]) == pytest.approx((1, int(width >= 75), int(width >= 90)))
    assert result([(1, BOX), (2, FAR)], found)["AP"] == pytest.approx((reached / 10 + 0) / 2), "mean over two classes"


def rpn_anchors(height, width):
    """[A, 4] xyxy: one size (8 strides) and three ratios at each location of strides 4 to 64, as in FPN."""
    levels = []
    for stride in (4, 8, 16, 32, 64):
        x, y = np.meshgrid(*(np.arange(0, side, stride) for side in (width, height)))
        for ratio in (0.5, 1, 2):
            half = 4 * stride * np.array([ratio**-0.5, ratio**0.5])
            centre = np.stack([x.ravel(), y.ravel()], axis=1)
            levels.append(np.concatenate([centre - half, centre + half], axis=1))
    return np.concatenate(levels)


def test_e06_an_rpn_is_dense_and_its_sampler_balances():
    rng = np.random.default_rng(0)
    anchors = rpn_anchors(800, 1344)
    assert len(anchors) > 250_000
    corner, side = rng.uniform(0, (900, 400), (10, 2)), rng.uniform(30, 400, (10, 2))
    best = np.zeros(len(anchors))
    for box in np.concatenate([corner, corner + side], axis=1):
        sides = np.minimum(anchors[:, 2:], box[2:]) - np.maximum(anchors[:, :2], box[:2])
        intersection = np.clip(sides, 0, None).prod(axis=1)
        areas = (anchors[:, 2:] - anchors[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
        best = np.maximum(best, intersection / (areas - intersection))
    foreground, background = int(np.sum(best >= 0.7)), int(np.sum(best < 0.3))
    assert 0 < foreground < background / 1000, "the imbalance that one-stage detectors have"
    kept = min(foreground, 128)
    assert kept / (256 - kept) > 20 * foreground / background, "256 sampled anchors are far more balanced"
    assert kept <= 256 - kept, "and never more than half foreground"


def test_e07_terms():
    wrong = re.compile(r"exampling|hard examples mining", flags=re.IGNORECASE)
    pages = [
        p for p in (*DOCS.glob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("src/**/*.py")) if p.name != "misstatements.md"
    ]
    assert len(pages) > 10
    assert not [page for page in pages if wrong.search(page.read_text(encoding="utf-8"))]
    assert wrong.search((DOCS / "misstatements.md").read_text(encoding="utf-8")), "the pattern finds what it is for"


def test_e11_gamma_acts_on_negatives_far_more_than_on_positives():
    """What is left to the easiest 80 %, at gamma 2 over gamma 0, on the reference samples of figure 4."""
    cases = json.loads((ROOT / "tests" / "oracles" / "vectors" / "fig4_cdf.json").read_text())["cases"]
    left = {}
    for kind in ("pos", "neg"):
        p_t = next(np.array(case["p_t"]) for case in cases if case["set"] == kind)
        shares = [cumulative_share(np.log(p_t / (1 - p_t)), gamma, np.array([0.8]))[0] for gamma in (0.0, 2.0)]
        left[kind] = shares[1] / shares[0]
    assert left["pos"] > 0.4
    assert left["neg"] < 0.01


def test_e12_the_same_curves_go_with_any_accuracy():
    """A detector's logits fix its curves and its scores; its boxes decide whether AP is 1 or 0."""
    logits = np.array([0.5, 1.5])
    boxes = [(1, BOX), (1, FAR)]
    scores = 1 / (1 + np.exp(-logits))
    assert cumulative_share(logits, 2.0, np.array([0.5]))[0] < 0.5
    good = [(1, bbox, score) for (_, bbox), score in zip(boxes, scores, strict=True)]
    bad = [(1, (bbox[0] + 90, *bbox[1:]), score) for _, bbox, score in good]
    assert [s for *_, s in good] == [s for *_, s in bad]
    assert result(boxes, good)["AP"] == pytest.approx(1)
    assert result(boxes, bad)["AP"] == 0


def test_e13_points_are_not_per_cent():
    with (ROOT / "src" / "imbdet" / "figures" / "published" / "focal_loss_1b.csv").open(encoding="utf-8") as file:
        ap = {float(row["gamma"]): float(row["AP"]) for row in csv.DictReader(file)}
    assert ap[2] - ap[5] == pytest.approx(1.8)
    assert 100 * (ap[2] - ap[5]) / ap[2] == pytest.approx(5.3, abs=0.05), "per cent of 34.0"


def test_e27_the_first_author_stands_first():
    title = re.compile(r"Focal\s+Loss\s+for\s+Dense\s+Object\s+Detection")
    citing = 0
    for path in (*DOCS.glob("*.md"), *ROOT.glob("src/**/*.py")):
        text = path.read_text(encoding="utf-8")
        for cited in title.finditer(text):
            citing += 1
            authors = re.findall(
                r"\b(?:Lin|Goyal|Girshick|He|Doll[aá]r)\b", text[max(0, cited.start() - 120) : cited.start()]
            )
            assert authors[:1] == ["Lin"], f"{path} cites the paper without its first author in front"
    assert citing >= 2

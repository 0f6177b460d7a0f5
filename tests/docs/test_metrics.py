"""docs/metrics.md: the example worked by hand agrees with pycocotools, the generated part with the records."""

import re
from fractions import Fraction

import numpy as np
import pytest
from pages import ROOT, load_build, read, tables

from imbdet.errors import UserError
from imbdet.evaluation.coco_ap import evaluate
from imbdet.evaluation.detections import Detections
from imbdet.files import write_json, write_text
from imbdet.layout import Layout
from imbdet.study_file import load_study

BUILD = load_build()
BOXES, FOUND, THRESHOLDS, POINT = tables(read("metrics.md"))[1:5]
SIDES = ("x", "y", "width", "height")


def share(text):
    return float(Fraction(text))


def evaluation(rows=FOUND, score=0.55):
    """The detections of the page's table, evaluated against its boxes."""
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n, "image_id": int(b["image"]), "category_id": 1, "bbox": [float(b[s]) for s in SIDES]}
            for n, b in enumerate(BOXES)
        ],
    }
    detections = Detections(
        np.array([int(row["image"]) for row in rows]),
        np.ones(len(rows), np.int64),
        np.array([[row[s] for s in SIDES] for row in rows], np.float32),
        np.array([row["score"] for row in rows], np.float32),
    )
    return evaluate(truth, detections, score)


def overlap(found, box):
    a, b = ([float(row[s]) for s in SIDES] for row in (found, box))
    sides = [max(0, min(a[k] + a[k + 2], b[k] + b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
    intersection = sides[0] * sides[1]
    return intersection / (a[2] * a[3] + b[2] * b[3] - intersection)


def test_rows_of_the_hand_worked_table():
    assert len(FOUND) == 5
    before = (0, 0)
    for n, row in enumerate(FOUND):
        nearest = {box["box"]: overlap(row, box) for box in BOXES if box["image"] == row["image"]}
        assert row["nearest"] == max(nearest, key=nearest.get)
        assert float(row["IoU"]) == pytest.approx(nearest[row["nearest"]])
        point = evaluation(FOUND[: n + 1], score=0.0).metrics["operating_point"]["counts"][0]
        assert (point["TP"] - before[0], point["FP"] - before[1]) == {"TP": (1, 0), "FP": (0, 1)}[row["outcome"]]
        assert (point["precision"], point["recall"]) == (share(row["precision"]), share(row["recall"]))
        before = point["TP"], point["FP"]


def test_rows_of_the_table_of_thresholds():
    """Each threshold for itself, by the page's own IoUs: a detection is right if it is the first to reach it."""
    thresholds = []
    for row in THRESHOLDS:
        for iou in map(float, row["IoU thresholds"].split(", ")):
            thresholds.append(iou)
            right, taken = [], set()
            for found in FOUND:
                if float(found["IoU"]) >= iou and found["nearest"] not in taken:
                    taken.add(found["nearest"])
                    right.append(found["detection"])
            assert row["TP are"] == (", ".join(right) or "none")
            assert share(row["largest recall"]) == len(right) / len(BOXES)
    assert thresholds == pytest.approx(np.arange(0.5, 0.96, 0.05).tolist())
    curves = evaluation().curves
    for iou, row in (("0.5", 0), ("0.75", 1), ("0.9", 2)):
        total = curves.loc[curves["iou"] == iou, "precision"].sum()
        assert float(THRESHOLDS[row]["sum of precision at 101 recalls"]) == pytest.approx(total)


def test_averages_of_the_hand_worked_example():
    metrics = evaluation().metrics
    text = read("metrics.md")
    for key, value in re.findall(r"(A[PR](?:_\{?\d+\}?)?) = \\frac.*? = ([\d.]+)(?=$|,)", text, flags=re.MULTILINE):
        name = {"AP_{50}": "AP50", "AP": "AP", "AR_{100}": "AR_100", "AR_1": "AR_1"}[key]
        assert metrics.pop(name) == pytest.approx(float(value), abs=5e-5)
    assert not {"AP50", "AP", "AR_100", "AR_1"} & set(metrics), "the page states all four"


def test_counts_of_the_hand_worked_example():
    for row, counts in zip(POINT, evaluation().metrics["operating_point"]["counts"], strict=True):
        assert {key: share(row[key]) for key in ("TP", "FP", "FN", "precision", "recall")} == {
            key: counts[key] for key in ("TP", "FP", "FN", "precision", "recall")
        }
        assert float(row["IoU"]) == counts["iou"]


@pytest.fixture
def project(tmp_path):
    """A project whose demo has the records of the hand-worked example."""
    config = tmp_path / "config" / "demo.yaml"
    write_text(config, (ROOT / "tests" / "pipeline" / "tiny.yaml").read_text())
    study = load_study(config)
    layout, experiment, result = Layout.of(study), study.report.precision_recall[-1], evaluation()
    identity = {"study": "demo", "experiment": experiment, "label": "l", "data": "two images", "seed": 7}
    write_json(tmp_path / layout.evaluation(experiment), identity | result.metrics)
    write_text(tmp_path / layout.precision_recall(experiment), result.curves.to_csv(index=False))
    return tmp_path


def test_generated_part_holds_the_numbers_of_the_records(project):
    page = BUILD.page(read("metrics.md"), project)
    record = evaluation().metrics
    counts, curve, classes = tables(page)[-3:]
    assert counts[0] == {"IoU": "0.5", "TP": "3", "FP": "1", "FN": "1", "precision": "0.750", "recall": "0.750"}
    assert [row["recall"] for row in curve[:-1]] == [f"{r / 10:.1f}" for r in range(11)]
    assert curve[5] == {"recall": "0.5", "0.5": "1.000", "0.75": "1.000", "0.9": "0.000", "mean": "0.600"}
    means = [record[key] for key in ("AP50", "AP75", "AP90", "AP")]
    assert list(curve[-1].values())[1:] == [f"**{mean:.3f}**" for mean in means]
    assert classes[0] == {"class": "thing", "boxes": "4", "AP": "0.436", "AP50": "0.691", "AR_100": "0.450"}


def test_making_the_page_again_changes_nothing_and_keeps_the_rest(project):
    text = read("metrics.md")
    page = BUILD.page(text, project)
    assert BUILD.page(page, project) == page
    assert page.startswith(text.partition(BUILD.BEGIN)[0])
    with pytest.raises(UserError, match="once each"):
        BUILD.page(text.replace(BUILD.END, ""), project)


def test_generated_part_is_that_of_the_committed_records():
    text = read("metrics.md")
    assert text == BUILD.page(text, ROOT), "run `python docs/build.py` and commit docs/metrics.md"

"""The benchmark of the evaluation: all ways give the same numbers, and the page says what the record says."""

import numpy as np
import pytest
from scripts import load

SIZES = {"images": 60, "boxes": 400, "classes": 12, "detections": 3000}


@pytest.fixture(scope="module")
def benchmark():
    return load("evaluation")


def test_the_case_is_that_of_a_detector(benchmark):
    """Frequent and rare classes, crowds, boxes of all sizes inside the image, right and wrong detections; seeded."""
    truth, detections = benchmark.make_case(**SIZES)
    assert [len(truth[key]) for key in ("images", "annotations", "categories")] == [60, 400, 12]
    assert len(detections) == 3000
    classes = np.bincount([a["category_id"] for a in truth["annotations"]], minlength=12)
    assert classes[0] > 3 * classes[-1] > 0
    assert 0 < sum(a["iscrowd"] for a in truth["annotations"]) < 20
    boxes = np.array([a["bbox"] for a in truth["annotations"]])
    assert boxes.min() >= 0
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 640.1
    areas = np.array([a["area"] for a in truth["annotations"]])
    assert np.histogram(areas, [0, 32**2, 96**2, 1e6])[0].min() > 50
    assert 0.05 < benchmark.fast.average_precision(truth, detections)["AP50"] < 0.6
    again = benchmark.make_case(**SIZES)
    assert again[0] == truth
    np.testing.assert_array_equal(again[1].bbox, detections.bbox)


def test_all_ways_give_the_same_numbers_and_their_times_are_compared(benchmark):
    record = benchmark.make_record(SIZES, repetitions=3)
    result = record["results"][0]
    assert [row["name"] for row in result["rows"]] == ["reference", "reference, AP alone", "library", "fast"]
    fast = result["rows"][-1]
    assert fast["times_fast"] == 1
    for row in result["rows"]:
        assert row["largest_difference"] < 1e-12
        assert row["median_s"] == sorted(row["times_s"])[1]
        ratios = [own / other for own, other in zip(row["times_s"], fast["times_s"], strict=True)]
        assert row["times_fast"] == pytest.approx(sorted(ratios)[1])
    assert result["rows"][0]["times_fast"] > 2, "even where there is little to evaluate"


@pytest.mark.promise("Evaluation while training is at least 8 times as fast as pycocotools, as measured", "law")
def test_the_record_meets_the_target_on_a_set_of_the_size_of_val2017(page, committed):
    record = committed[2]
    sizes = {key: record["settings"][key] for key in SIZES}
    assert sizes == {"images": 5000, "boxes": 36_000, "classes": 80, "detections": 400_000}
    rows = {row["name"]: row for row in record["results"][0]["rows"]}
    for name in ("reference", "reference, AP alone"):
        assert rows[name]["times_fast"] >= page.EVALUATION_TARGET == 8
    assert max(row["largest_difference"] for row in rows.values()) < 1e-12


def test_the_page_says_what_the_record_says(page, committed):
    text = page.page(*committed).partition("## Evaluation")[2].partition("\n## ")[0]
    rows = committed[2]["results"][0]["rows"]
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == len(rows) + 2
    for row in rows:
        assert f"| {page.WAYS[row['name']]} | {row['median_s']:.2f} | {row['times_fast']:.1f} |" in text
    assert f"faster-coco-eval {committed[2]['versions']['faster-coco-eval']}" in text

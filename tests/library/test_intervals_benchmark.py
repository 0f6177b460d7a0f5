"""The benchmark of the intervals: both ways give the same numbers, and the page says what the record says."""

import pytest
from scripts import load

SIZES = {"images": 60, "boxes": 400, "classes": 12, "detections": 3000}


@pytest.fixture(scope="module")
def benchmark():
    return load("intervals")


def test_the_two_methods_differ_on_the_same_images(benchmark):
    truth, methods = benchmark.make_methods(SIZES)
    one, other = methods.values()
    assert len(one) == len(other) == 3000
    assert (one.image_id == other.image_id).all()
    record = benchmark.make_ways(truth, methods, 20, 1)["two methods"]()
    (row,) = [row for row in record["differences"] if row["metric"] == "AP"]
    assert 0 < abs(row["value"]) < 0.2


def test_the_loop_gives_the_same_numbers_and_its_times_are_multiplied_up(benchmark):
    record = benchmark.make_record(SIZES, resamples=120, plain_resamples=2, repetitions=3)
    result = record["results"][0]
    assert result["largest_difference"] < 1e-12
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["two methods", "matching", "resampling", "plain NumPy"]
    assert rows["resampling"]["times_resampling"] == rows["resampling"]["cpu_times_resampling"] == 1
    for row in rows.values():
        assert row["median_s"] == sorted(row["times_s"])[1]
        assert row["median_cpu_s"] == sorted(row["cpu_s"])[1]
        ratios = [own / other for own, other in zip(row["times_s"], rows["resampling"]["times_s"], strict=True)]
        assert row["times_resampling"] == pytest.approx(sorted(ratios)[1])
    assert rows["plain NumPy"]["cpu_times_resampling"] > 2, "even where there is little to resample"


@pytest.mark.promise("A thousand resamples of two methods on val2017's size take at most 15 s on two cores", "law")
def test_the_record_meets_the_target_on_a_set_of_the_size_of_val2017(page, committed):
    record = committed[3]
    sizes = {key: record["settings"][key] for key in (*SIZES, "resamples")}
    assert sizes == {"images": 5000, "boxes": 36_000, "classes": 80, "detections": 400_000, "resamples": 1000}
    assert record["settings"]["cores"] <= 2
    rows = {row["name"]: row for row in record["results"][0]["rows"]}
    assert rows["two methods"]["median_cpu_s"] <= page.INTERVALS_TARGET == 15, "so that a quiet clock shows no more"
    assert rows["plain NumPy"]["cpu_times_resampling"] > 8
    assert record["results"][0]["largest_difference"] < 1e-12


def test_the_page_says_what_the_record_says(page, committed):
    text = page.page(*committed).partition("## Intervals")[2]
    rows = committed[3]["results"][0]["rows"]
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == len(rows) + 2
    for row in rows:
        assert f"| {page.STEPS[row['name']]} | {row['median_s']:.1f} | {row['median_cpu_s']:.1f} |" in text
    assert f"numpy {committed[3]['versions']['numpy']}" in text

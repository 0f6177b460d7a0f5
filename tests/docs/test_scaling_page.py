"""The page on scaling is made from the records; its arithmetic holds, and it calls an estimate one."""

import copy
import importlib.util
import json

import pytest
from pages import DOCS, read, tables
from promises import refused

from imbdet.study_file import load_study


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("docs_scaling", DOCS / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def record(scaling):
    return json.loads(scaling.RECORD.read_text(encoding="utf-8"))


def number(cell):
    return float(cell.replace(",", ""))


def test_the_page_is_that_of_the_records(scaling, record):
    assert read("scaling.md") == scaling.page(record, scaling.published())


def test_the_record_is_of_the_studys_detectors(scaling, record):
    study = load_study(scaling.STUDY)
    assert [row["detector"] for row in record["results"]] == list(study.detectors)
    for row in record["results"]:
        assert study.experiment(row["experiment"]).detector == row["detector"]
        short, long = study.detector(row["experiment"]).short_side, study.detector(row["experiment"]).long_side
        assert row["padded"][0] >= short
        assert row["largest_padded"][0] >= long


def test_hours_follow_from_what_was_measured(scaling, record):
    """One second an image and 10^12 operations make numbers that can be checked by head."""
    simple = copy.deepcopy(record)
    for row in simple["results"]:
        row |= {"processor_seconds_an_image": 1.0, "operations_an_image": 1e12, "largest_operations_an_image": 2e12}
    speeds = scaling.published()
    speeds["A100 bf16"] = speeds["A100 bf16"] | {"value": "100"}
    _, machine, estimate, published = tables(scaling.page(simple, speeds))
    trainings = 12 * 3
    images = 90_000 * 16
    hours = trainings * images / 3600
    assert [number(row["core hours"]) for row in machine] == [hours, hours, 2 * hours]
    # 2 x 36 x 1.44e6 images of 1e12 operations at 30 % of 1e14 a second, or of 2e12 at 10 %
    spans = [number(cell) for cell in estimate[0]["GPU hours"].split(" to ")]
    assert spans == [pytest.approx(2 * hours / 30, abs=0.5), pytest.approx(4 * hours / 10, abs=0.5)]
    assert [row["GPU hours a training"] for row in published] == ["40", "42", ""]
    assert number(published[2]["GPU hours of 36"]) == 36 * (40 + 42)


def test_an_estimate_is_called_one_and_every_published_number_has_its_source(scaling, record):
    text = scaling.page(record, scaling.published())
    assert "### On GPUs: an estimate" in text
    assert "**assumed**" in text
    for row in scaling.published().values():
        assert f"{row['value']} {row['unit']}: {row['source']}" in text


@pytest.mark.promise("A page is not made of a record that its text is not about", "bad input")
def test_a_record_of_a_gpu_is_refused(scaling, record):
    hardware = record["hardware"] | {"device": "NVIDIA H100"}
    with refused("throughput.json was measured on NVIDIA H100"):
        scaling.page(record | {"hardware": hardware}, scaling.published())

"""The commands `evaluate` and `examples` on a study's files: records as their readers expect them."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from coco_cases import detections_of, perfect
from lvis_cases import detections_on, made_up
from PIL import Image
from promises import refused

from imbdet.data.coco import read_annotations
from imbdet.errors import UserError
from imbdet.evaluation import coco_ap, examples, lvis_ap
from imbdet.evaluation.detections import Detections
from imbdet.figures import results
from imbdet.files import write_npz
from imbdet.layout import Layout
from imbdet.study_file import load_study

STUDY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"
SIDE = 40


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A study whose val split has 12 images; the odd ids hold a box, and image 3 a crowd region as well."""
    monkeypatch.chdir(tmp_path)
    study = load_study(STUDY)
    layout = Layout.of(study)
    images = [{"id": i, "file_name": f"{i}.bmp", "width": SIDE, "height": SIDE} for i in range(1, 13)]
    boxes = [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [i, 5, 10.5, 20]} for i in range(1, 13, 2)]
    crowd = {"id": 100, "image_id": 3, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "ring"}]
    layout.annotations("val").parent.mkdir(parents=True)
    content = {"images": images, "annotations": [*boxes, crowd], "categories": categories}
    layout.annotations("val").write_text(json.dumps(content))
    layout.images("val").mkdir()
    for image in images:
        Image.new("RGB", (SIDE, SIDE), (image["id"], 0, 0)).save(layout.images("val") / image["file_name"])
    for name in study.experiments:
        perfect(content).save(layout.detections(name), layout.annotations("val"))
    return study, layout


def test_evaluate_writes_the_record_and_the_curves(place):
    study, layout = place
    name = next(iter(study.experiments))
    before = layout.annotations("val").read_bytes()
    coco_ap.run(study, layout, name)
    record = json.loads(layout.evaluation(name).read_text())
    assert record["study"] == study.name
    assert record["experiment"] == name
    assert record["label"] == study.experiments[name].label
    assert record["detector"] == study.experiments[name].detector == "retinanet"
    assert record["method"] == study.experiments[name].method
    assert (record["data"], record["seed"]) == (study.description, study.seed)
    assert (record["images"], record["boxes"], record["detections"]) == (12, 6, 6)
    assert record["AP"] == pytest.approx(1)
    assert record["AP_large"] is None
    assert [row["name"] for row in record["per_class"]] == ["disc", "ring"]
    assert record["operating_point"]["score"] == study.evaluate.operating_score
    curves = pd.read_csv(layout.precision_recall(name), dtype={"iou": str})
    assert list(curves.columns) == ["iou", "recall", "precision"]
    assert curves.groupby("iou", sort=False).size().to_dict() == {"0.5": 101, "0.75": 101, "0.9": 101, "mean": 101}
    assert layout.annotations("val").read_bytes() == before


def test_the_same_detections_give_the_same_bytes(place):
    study, layout = place
    name = next(iter(study.experiments))
    written = []
    for _ in range(2):
        coco_ap.run(study, layout, name)
        examples.run(study, layout)
        paths = (layout.evaluation(name), layout.precision_recall(name), layout.examples)
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]


def as_lvis(study, layout):
    """The study with LVIS as its data, whose val split is a made-up one; detections of every experiment."""
    truth = made_up()
    layout.annotations("val").write_text(json.dumps(truth))
    for seed, name in enumerate(study.experiments):
        detections_of(detections_on(truth, seed)).save(layout.detections(name), layout.annotations("val"))
    data = {"source": "lvis_v1", "folder": study.data.folder}
    return type(study).model_validate(study.model_dump() | {"data": data})


def test_a_study_of_lvis_is_evaluated_by_its_rules(place):
    study, layout = place
    name = next(iter(study.experiments))
    coco_ap.run(study, layout, name)
    plain = json.loads(layout.evaluation(name).read_text())
    study = as_lvis(study, layout)
    coco_ap.run(study, layout, name)
    record = json.loads(layout.evaluation(name).read_text())
    assert record.keys() - plain.keys() == {"AP_rare", "AP_common", "AP_frequent", "AR_300"}
    assert not plain.keys() - record.keys()
    assert record["per_class"][0].keys() - plain["per_class"][0].keys() == {"frequency"}
    truth = json.loads(layout.annotations("val").read_text())
    found = Detections.load(layout.detections(name), layout.annotations("val"))
    expected = lvis_ap.evaluate(truth, found, study.evaluate.operating_score)
    assert expected.metrics.items() <= record.items()
    assert len(pd.read_csv(layout.precision_recall(name))) == len(expected.curves)


def test_tables_are_drawn_from_records_of_lvis(place):
    study, layout = place
    study = as_lvis(study, layout)
    for name in study.experiments:
        coco_ap.run(study, layout, name)
    assert len(results.data(study, layout)) == len(study.experiments)


def half(path, annotations):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_a_nan(path, annotations):
    with np.load(path) as archive:
        columns = dict(archive)
    columns["score"][2] = np.nan
    write_npz(path, **columns)


def of_other_data(path, annotations):
    """The same images, classes and ids, but a box has moved."""
    content = json.loads(annotations.read_text())
    content["annotations"][0]["bbox"][0] += 1
    other = path.with_name("other.json")
    other.write_text(json.dumps(content))
    Detections.load(path, annotations).save(path, other)


@pytest.mark.promise("Evaluation refuses damaged and foreign detections and keeps the old record", "bad input")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path, _: path.write_bytes(b"half"), r"detections\.npz is not a whole file of detections"),
        (lambda path, _: path.write_bytes(b""), r"detections\.npz is not a whole file of detections"),
        (half, r"detections\.npz is not a whole file of detections"),
        (with_a_nan, r"detections\.npz .*score of detection 2 is nan, not finite"),
        (lambda path, _: write_npz(path, image_id=np.zeros(1, np.int64)), "expected the arrays image_id, category_id"),
        (lambda path, _: path.unlink(), "no detections at .*run the `detect` command"),
        (
            of_other_data,
            r"detections\.npz holds detections of other data than .*_val\.json.* run the `detect`",
        ),
        (lambda *paths: detections_of([(99, 1, (1, 1, 5, 5), 0.5)]).save(*paths), "name image id 99, not in"),
        (lambda *paths: detections_of([(1, 9, (1, 1, 5, 5), 0.5)]).save(*paths), "name category id 9, not in"),
    ],
)
def test_evaluate_refuses_damaged_detections_and_keeps_the_old_record(place, damage, message):
    study, layout = place
    name = next(iter(study.experiments))
    coco_ap.run(study, layout, name)
    before = layout.evaluation(name).read_bytes()
    damage(layout.detections(name), layout.annotations("val"))
    with refused(message):
        coco_ap.run(study, layout, name)
    assert layout.evaluation(name).read_bytes() == before


@pytest.mark.promise("Evaluation refuses damaged annotations and keeps the old record", "bad input")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("{"), "instances_val.json is not valid JSON"),
        (lambda path: path.write_text(""), "instances_val.json is empty"),
        (lambda path: path.write_text('{"annotations": [], "categories": []}'), "a list of records under 'images'"),
        (
            lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"images": []})),
            "'images' and 'categories' must not be empty|which the file does not list",
        ),
        (lambda path: path.unlink(), "instances_val.json does not exist"),
    ],
)
def test_evaluate_refuses_damaged_annotations_and_keeps_the_old_record(place, damage, message):
    study, layout = place
    name = next(iter(study.experiments))
    coco_ap.run(study, layout, name)
    before = layout.evaluation(name).read_bytes()
    damage(layout.annotations("val"))
    with refused(message):
        coco_ap.run(study, layout, name)
    assert layout.evaluation(name).read_bytes() == before


def test_evaluate_names_the_experiments_that_there_are(place):
    study, layout = place
    with refused("no experiment 'absent'"):
        coco_ap.run(study, layout, "absent")


@pytest.mark.promise("LVIS evaluation refuses annotations that are not of LVIS", "bad input")
def test_a_study_of_lvis_refuses_annotations_of_coco(place):
    study, layout = place
    content = layout.annotations("val").read_text()
    study = as_lvis(study, layout)
    layout.annotations("val").write_text(content)
    name = next(iter(study.experiments))
    Detections.concatenate([]).save(layout.detections(name), layout.annotations("val"))
    with refused("category 1 has frequency None; LVIS has r, c, f"):
        coco_ap.run(study, layout, name)


def test_examples_hold_boxes_pixels_and_what_reaches_the_operating_score(place):
    study, layout = place
    shown, score = study.report.detections, study.evaluate.operating_score
    rows = [(3, 1, (1, 2, 3, 4), score - 0.01), (3, 2, (5, 6, 7, 8), score + 0.01), (3, 1, (1, 1, 2, 2), score + 0.1)]
    detections_of(rows).save(layout.detections(shown[0]), layout.annotations("val"))
    examples.run(study, layout)
    record = json.loads(layout.examples.read_text())
    assert record["study"] == study.name
    assert record["categories"] == {"1": "disc", "2": "ring"}
    assert [image["image_id"] for image in record["images"]] == [1, 3, 5, 7, 9, 11]
    image = record["images"][1]
    assert image["ground_truth"] == [{"category_id": 2, "bbox": [3, 5, 10.5, 20]}], "no crowd region"
    assert sorted(image["detections"]) == sorted(shown)
    assert [d["bbox"] for d in image["detections"][shown[0]]] == [[1, 1, 2, 2], [5, 6, 7, 8]]
    with Image.open(io.BytesIO(base64.b64decode(image["pixels"]))) as picture:
        assert picture.format == "PNG"
        assert picture.size == (image["width"], image["height"]) == (SIDE, SIDE)
        assert picture.getpixel((0, 0)) == (3, 0, 0)


def test_photographs_are_not_passed_on(place):
    study, layout = place
    data = {"source": "coco_format", "folder": study.data.folder, "path": "archive.zip"}
    photographs = type(study).model_validate(study.model_dump() | {"data": data})
    examples.run(photographs, layout)
    assert {image["pixels"] for image in json.loads(layout.examples.read_text())["images"]} == {None}


def test_the_choice_of_images_ignores_the_results(place):
    study, layout = place
    examples.run(study, layout)
    chosen = [image["image_id"] for image in json.loads(layout.examples.read_text())["images"]]
    for name in study.experiments:
        Detections.concatenate([]).save(layout.detections(name), layout.annotations("val"))
    examples.run(study, layout)
    assert [image["image_id"] for image in json.loads(layout.examples.read_text())["images"]] == chosen


@pytest.mark.parametrize(("count", "expected"), [(1, [1]), (2, [1, 11]), (3, [1, 5, 11]), (9, [1, 3, 5, 7, 9, 11])])
def test_images_are_spread_over_those_with_boxes(place, count, expected):
    _, layout = place
    truth = read_annotations(layout.annotations("val"))
    np.testing.assert_array_equal(truth.image_ids[examples.choose(truth, count)], expected)


def test_examples_name_a_damaged_image(place):
    study, layout = place
    (layout.images("val") / "3.bmp").write_bytes(b"BM")
    with pytest.raises(UserError, match=r"3\.bmp is not a whole image.*`data`"):
        examples.run(study, layout)
    (layout.images("val") / "3.bmp").unlink()
    with pytest.raises(UserError, match=r"no image .*3\.bmp.*`data`"):
        examples.run(study, layout)


def test_a_split_without_boxes_has_no_examples(place):
    study, layout = place
    content = json.loads(layout.annotations("val").read_text())
    layout.annotations("val").write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(UserError, match="no image holds a box"):
        examples.run(study, layout)

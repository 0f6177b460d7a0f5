"""The commands `evaluate` and `examples` on a study's files: records as their readers expect them."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from coco_cases import detections_of, perfect
from PIL import Image

from imbdet.config import load_study
from imbdet.data.coco import read_annotations
from imbdet.errors import UserError
from imbdet.evaluation import coco_ap, examples
from imbdet.evaluation.detections import Detections
from imbdet.layout import Layout

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
        perfect(content).save(layout.detections(name))
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


def test_evaluate_refuses_damaged_input_and_keeps_the_old_record(place):
    study, layout = place
    name = next(iter(study.experiments))
    coco_ap.run(study, layout, name)
    before = layout.evaluation(name).read_bytes()
    layout.detections(name).write_bytes(b"half")
    with pytest.raises(UserError, match="not a whole file"):
        coco_ap.run(study, layout, name)
    layout.annotations("val").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        coco_ap.run(study, layout, name)
    with pytest.raises(UserError, match="no experiment 'absent'"):
        coco_ap.run(study, layout, "absent")
    assert layout.evaluation(name).read_bytes() == before


def test_examples_hold_boxes_pixels_and_what_reaches_the_operating_score(place):
    study, layout = place
    shown, score = study.report.detections, study.evaluate.operating_score
    rows = [(3, 1, (1, 2, 3, 4), score - 0.01), (3, 2, (5, 6, 7, 8), score + 0.01), (3, 1, (1, 1, 2, 2), score + 0.1)]
    detections_of(rows).save(layout.detections(shown[0]))
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
        Detections.concatenate([]).save(layout.detections(name))
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

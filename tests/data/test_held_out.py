"""Images held out of the training split: validated on, never trained on, and chosen by their ids alone."""

import json
from pathlib import Path

import pytest
from prepared import coco_format, run, zipped

from imbdet.data.coco import read_json
from imbdet.data.subset import hold_out
from imbdet.errors import UserError
from imbdet.layout import Layout


def content(ids):
    return {
        "images": [{"id": i} for i in ids],
        "annotations": [{"id": i, "image_id": i} for i in ids],
        "categories": [{"id": 1, "name": "a"}],
    }


def ids(reduced):
    return {record["id"] for record in reduced["images"]}


@pytest.mark.promise("Images held out of training are validated on, and the val split is not read", "law")
@pytest.mark.parametrize("count", [1, 30, 99])
def test_every_image_is_trained_on_or_held_out(count):
    order = list(range(7, 107))
    train, val = (hold_out(content(order), split, count, Path("train.json")) for split in ("train", "val"))
    assert len(ids(val)) == count
    assert ids(train) | ids(val) == set(order)
    assert not ids(train) & ids(val)
    for part in (train, val):
        assert {box["image_id"] for box in part["annotations"]} == ids(part)
        assert part["categories"] == content(order)["categories"]
    backwards = hold_out(content(order[::-1]), "val", count, Path("train.json"))
    assert ids(backwards) == ids(val)
    if count > 1:
        assert ids(hold_out(content(order), "val", count - 1, Path("train.json"))) < ids(val)


@pytest.mark.parametrize("packed", [False, True])
def test_held_out_images_come_from_the_training_split(make_study, coco_folder, tmp_path, packed):
    """Also where the source has no val split at all."""
    (coco_folder / "annotations" / "instances_val.json").write_text("never read")
    place = zipped(coco_folder, tmp_path / "data.zip") if packed else coco_folder
    study = make_study(coco_format(place, held_out=1))
    splits = run(study)["splits"]
    assert [splits[split]["images"] for split in ("train", "val")] == [2, 1]
    layout = Layout.of(study)
    listed = {split: read_json(layout.annotations(split))["images"] for split in ("train", "val")}
    names = {split: {image["file_name"] for image in images} for split, images in listed.items()}
    assert names["train"] | names["val"] == {"a/one.png", "two.jpg", "three.png"}
    for split, files in names.items():
        assert all((layout.images(split) / name).is_file() for name in files)


def test_something_has_to_be_left_to_train_on(make_study, coco_folder):
    with pytest.raises(UserError, match=r"data.held_out is 3, but .*instances_train.json has 3 images; hold out fewer"):
        run(make_study(coco_format(coco_folder, held_out=3)))


def test_the_manifest_says_how_many_are_held_out(make_study, coco_folder):
    run(make_study(coco_format(coco_folder, held_out=1)))
    assert json.loads(Path("results/test/data.json").read_text())["source"]["held_out"] == 1

"""LVIS's keys in a folder or archive: read where its source is lvis_format, and told where they are not read."""

import json

import pytest
from prepared import coco_format, content, run, state
from promises import refused, said

from imbdet.settings import Validation

LISTS = {"neg_category_ids": [3], "not_exhaustive_category_ids": []}


def change(folder, split, edit):
    path = folder / "annotations" / f"instances_{split}.json"
    whole = json.loads(path.read_text())
    edit(whole)
    path.write_text(json.dumps(whole))


def add_keys(whole):
    """Make COCO's format LVIS's: lists of categories, frequencies, no crowds."""
    for image in whole["images"]:
        image.update(LISTS)
    for category in whole["categories"]:
        category["frequency"] = "c"
    whole["annotations"] = [a for a in whole["annotations"] if not a["iscrowd"]]


@pytest.fixture
def lvis_folder(coco_folder):
    for split in ("train", "val"):
        change(coco_folder, split, add_keys)
    return coco_folder


def lvis_format(folder, **more):
    return coco_format(folder) | {"source": "lvis_format", **more}


def report():
    return json.loads(content("results")["test/validation.json"])["splits"]


def test_a_folder_in_lvis_s_format_is_prepared(make_study, lvis_folder):
    study = make_study(lvis_format(lvis_folder))
    manifest = run(study)
    assert manifest["source"]["source"] == "lvis_format"
    assert "lvis_keys" not in report()["val"]["defects"]
    assert all(
        LISTS.items() <= i.items() for i in json.loads(content()["data/annotations/instances_val.json"])["images"]
    )
    before = state("data", "results")
    run(study)
    assert state("data", "results") == before


@pytest.mark.parametrize("images", [[0], [0, 1]], ids=["one image", "all images"])
def test_keys_that_are_not_read_are_told(make_study, coco_folder, capsys, images):
    def some(whole):
        for position in images:
            whole["images"][position] |= LISTS

    change(coco_folder, "val", some)
    run(make_study(coco_format(coco_folder)))
    assert report()["val"]["defects"]["lvis_keys"] == {
        "policy": "ignore",
        "count": len(images),
        "ids": [1, 2][: len(images)],
    }
    said("lvis_keys: image with LVIS's lists of categories, which COCO's rules do not read", capsys.readouterr().out)
    strict = Validation(lvis_keys="error").model_dump()
    with refused(r"image 1 has LVIS's lists .*; data.source lvis_format has LVIS's rules.*; mend it, or set"):
        run(make_study({**coco_format(coco_folder), "validation": strict}))


SPOILT = {
    "an image without a list": (
        lambda whole: whole["images"][1].pop("neg_category_ids"),
        "image 2 has neg_category_ids None; LVIS has a list of category ids there",
    ),
    "an image with another list": (
        lambda whole: whole["images"][0].update(not_exhaustive_category_ids=["3"]),
        "image 1 has not_exhaustive_category_ids \\['3'\\]; LVIS has a list of category ids there",
    ),
    "a category without a frequency": (
        lambda whole: whole["categories"][0].pop("frequency"),
        "category 7 has frequency None; LVIS has r, c, f",
    ),
    "a category that is not listed": (
        lambda whole: whole["images"][1].update(neg_category_ids=[3, 99]),
        "image 2 names category 99 in neg_category_ids, which the file does not list",
    ),
    "COCO's format": (
        lambda whole: [category.pop("frequency") for category in whole["categories"]],
        "category 7 has frequency None; .* set data.source to coco_format to evaluate by COCO's rules",
    ),
}


@pytest.mark.promise("Data that LVIS's rules cannot evaluate are refused before any training", "bad input")
@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_what_lvis_s_rules_cannot_read_is_refused_before_any_training(make_study, lvis_folder, spoil, message):
    change(lvis_folder, "val", spoil)
    with refused(rf"instances_val.json: {message}"):
        run(make_study(lvis_format(lvis_folder)))


@pytest.mark.promise("Data that LVIS's rules cannot evaluate are refused before any training", "bad input")
@pytest.mark.parametrize(
    ("key", "name", "policy"),
    [
        ("iscrowd", "crowds", {}),
        ("iscrowd", "crowds", {"crowds": "error"}),
        ("ignore", "marked", {"marked": "crowd"}),
        ("ignore", "marked", {}),
    ],
)
def test_regions_to_ignore_are_refused_or_dropped(make_study, lvis_folder, key, name, policy):
    change(lvis_folder, "val", lambda whole: whole["annotations"][0].update({key: 1}))
    with refused(rf"annotation 1 of image 2 .*; LVIS's rules have no regions .*: set data.validation.{name} to drop"):
        run(make_study(lvis_format(lvis_folder, validation=policy)))
    assert run(make_study(lvis_format(lvis_folder, validation={name: "drop"})))["splits"]["val"]["boxes"] == 0


@pytest.mark.parametrize(
    ("spoil", "policy"),
    [
        ({"bbox": [3, 3, 0, 8]}, {}),
        ({"bbox": [99, 3, 8, 8]}, {"outside": "drop"}),
        ({"category_id": 99}, {"unknown_category": "drop"}),
    ],
    ids=str,
)
def test_a_crowd_that_is_left_out_for_another_defect_needs_no_choice(make_study, lvis_folder, spoil, policy):
    change(lvis_folder, "val", lambda whole: whole["annotations"][0].update({"iscrowd": 1} | spoil))
    assert run(make_study(lvis_format(lvis_folder, validation=policy)))["splits"]["val"]["crowds"] == 0


def test_a_crowd_of_an_image_that_is_left_out_needs_no_choice(make_study, lvis_folder):
    def spoil(whole):
        whole["annotations"][0]["iscrowd"] = 1
        whole["images"][1]["ignore"] = 1

    change(lvis_folder, "val", spoil)
    manifest = run(make_study(lvis_format(lvis_folder, validation={"marked_images": "drop"})))
    assert (manifest["splits"]["val"]["images"], manifest["splits"]["val"]["crowds"]) == (1, 0)

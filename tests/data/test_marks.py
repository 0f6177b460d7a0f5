"""Marks to leave an annotation out: none of them is dropped while its box is trained on."""

import json
import shutil
from pathlib import Path

import pytest
from defects import SOURCE, Dataset, layout, policy
from prepared import coco_format, run
from promises import refused

from imbdet.data.coco import read_annotations
from imbdet.data.marks import find_marks
from imbdet.data.validate import validate
from imbdet.settings import Validation

LAYOUT = layout()
MARKED = {
    "mmdetection's": {"ignore": 1},
    "as a truth value": {"ignore": True},
    "as a float": {"ignore": 1.0},
    "as text": {"ignore": "1"},
    "as a word": {"ignore": "True"},
    "BDD100K's": {"ignored": True},
    "with a verb": {"is_ignored": 1},
    "VOC's": {"difficult": 1},
    "WIDER FACE's": {"invalid": 1},
    "Open Images'": {"IsGroupOf": 1},
    "another spelling of iscrowd": {"is_crowd": 1},
    "in capitals": {"isCrowd": True},
    "CVAT's": {"attributes": {"difficult": True, "occluded": False}},
    "CVAT's, of COCO's key": {"attributes": {"iscrowd": 1}},
    "a list of names and values": {"attributes": [{"name": "ignore", "value": True}]},
    "a list of keys and values": {"properties": [{"key": "occluded", "value": 0}, {"key": "Ignored", "value": "yes"}]},
    "a list of records": {"attributes": [{"occluded": 0}, {"difficult": 1}]},
    "a list of words": {"attributes": ["blurry", "ignore"]},
    "one word": {"attributes": "difficult"},
    "labelme's": {"flags": {"ignore": True}},
    "tags": {"tags": ["ignore"]},
    "a tag": {"tags": "crowd"},
    "a flag to ignore": {"ignore_flag": 1},
    "a region to ignore": {"ignore_region": True},
    "KITTI's": {"DontCare": 1},
    "KITTI's in small letters": {"dont_care": 1},
    "a group": {"is_group": 1},
    "VOC's, of three levels": {"difficult": 2},
    "a count": {"crowd": 5},
    "a kind of crowd": {"attributes": {"crowd": "sparse"}},
    "unspecified": {"attributes": {"difficult": "unspecified"}},
    "yes": {"ignore": "yes"},
    **{f"a value of {value!r}": {"ignore": value} for value in (-1, 0.5, float("nan"), [], {}, "maybe")},
    "CrowdHuman's": {"extra": {"ignore": 1, "occ": 0}},
    "beside one that says no": {"ignore": 0, "difficult": 1},
}
UNMARKED = [
    *({"ignore": value} for value in (0, 0.0, False, None, "", "0", "false", "False", "no", " No ")),
    {"attributes": {"difficult": False}},
    {"attributes": None},
    {"extra": []},
    {"attributes": [{"name": "ignore", "value": False}, {"name": 1}, 1, None]},
    {"attributes": "occluded", "tags": ["blurry"], "flags": {"ignore": "no", "iscrowd": 0}},
    {"group": 3, "group_id": 1, "note": "ignore"},
    {"isfake": 1},  # Objects365's drawings and reflections, which are trained on
    {"occluded": 1, "truncated": 1, "visibility": 0},
]


@pytest.fixture(autouse=True)
def clean_val(tmp_path, monkeypatch):
    """A folder to work in, whose val split has no mark."""
    monkeypatch.chdir(tmp_path)
    Dataset(1).write(LAYOUT, "val")


def marked(**keys):
    """A training split with one more annotation, and its id."""
    data = Dataset()
    number = data.add(data.content["images"][1], **keys)
    data.write(LAYOUT)
    return data, number


def plain(data, **values):
    """The content without the keys that detection does not need."""
    *others, last = data.content["annotations"]
    kept = {key: last[key] for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd")}
    return data.content | {"annotations": [*others, kept | values]}


def prepared():
    return json.loads(LAYOUT.annotations("train").read_text())


@pytest.mark.promise("An annotation with a mark to leave it out is never trained on without a word", "bad input")
@pytest.mark.parametrize("keys", MARKED.values(), ids=MARKED)
def test_a_mark_is_refused_by_default_and_becomes_a_crowd_if_asked(keys):
    data, number = marked(**keys)
    with refused(rf"^{SOURCE}: annotation 13 of image 20 has .*, by which other .* data.validation.marked to crowd or"):
        validate(LAYOUT, Validation())
    report, _ = validate(LAYOUT, policy(marked="crowd"))
    assert report["splits"]["train"]["defects"]["marked"] == {"policy": "crowd", "count": 1, "ids": [number]}
    assert prepared() == plain(data, iscrowd=1)
    split = read_annotations(LAYOUT.annotations("train"))
    assert split.crowds.ids.tolist() == [number]
    assert number not in split.objects.ids


@pytest.mark.parametrize("keys", UNMARKED, ids=str)
def test_a_key_that_says_no_or_something_else_is_no_mark(keys):
    data, _ = marked(**keys)
    report, _ = validate(LAYOUT, policy("error"))
    assert report["splits"]["train"]["defects"]["marked"]["count"] == 0
    assert prepared() == plain(data)


def test_a_crowd_that_is_marked_as_well_is_a_crowd():
    """As in annotations that pycocotools has evaluated, which gives each crowd ``ignore: 1``."""
    data, number = marked(iscrowd=1, ignore=1)
    report, _ = validate(LAYOUT, policy())
    defects = report["splits"]["train"]["defects"]
    assert (defects["marked"]["count"], defects["crowds"]["ids"]) == (0, [number])
    assert prepared() == plain(data)


def test_the_value_of_a_mark_is_in_the_message_however_long():
    for value, shown in (("sparse", "'sparse'"), (5, "5"), ("x" * 1000, "'x{79}")):
        marked(attributes={"crowd": value})
        with refused(rf"^{SOURCE}: annotation 13 of image 20 has attributes.crowd {shown}, by which other"):
            validate(LAYOUT, Validation())


@pytest.mark.promise("An annotation with a mark to leave it out is never trained on without a word", "bad input")
@pytest.mark.parametrize("keys", [{"ignore": 1}, {"tags": ["ignore"]}, {"flags": {"dontcare": True}}], ids=str)
def test_an_image_with_a_mark_is_refused_or_left_out(keys):
    data = Dataset()
    data.content["images"][1] |= keys
    data.write(LAYOUT)
    with refused(rf"^{SOURCE}: image 20 has .*, by which other programs.*; mend it, or set .*marked_images to drop$"):
        validate(LAYOUT, Validation())
    report, _ = validate(LAYOUT, policy(marked_images="drop"))
    assert report["splits"]["train"]["defects"]["marked_images"]["ids"] == [20]
    assert report["splits"]["train"]["images_in_quarantine"] == 0
    assert prepared() == data.without({20})
    assert not Path("data/quarantine.txt").exists()


@pytest.mark.promise("An annotation with a mark to leave it out is never trained on without a word", "bad input")
@pytest.mark.parametrize("keys", [{"ignore": 1}, {"is_ignored": "yes"}], ids=str)
def test_a_category_with_a_mark_marks_its_annotations(keys):
    data = Dataset(2)
    data.content["categories"][1] |= keys
    data.write(LAYOUT)
    with refused(
        r"annotation 2 of image 10 has category 2 with .*, by which .*data.validation.marked to crowd or drop"
    ):
        validate(LAYOUT, Validation())
    report, _ = validate(LAYOUT, policy(marked="drop"))
    assert report["splits"]["train"]["defects"]["marked"]["ids"] == [2, 4]
    assert [a["id"] for a in prepared()["annotations"]] == [1, 3]


@pytest.mark.parametrize("first", [{"ignore": 1}, {"area": float("nan")}, {"area": 0}, {"id": 1}], ids=str)
def test_a_good_box_is_no_repetition_of_one_that_is_left_out(first):
    data = Dataset()
    box = [0, 0, 5, 5]
    data.add(data.content["images"][1], bbox=box, **first)
    good = data.add(data.content["images"][1], bbox=box, area=25)
    data.add(data.content["images"][1], bbox=box, area=25)
    data.write(LAYOUT)
    report, _ = validate(LAYOUT, policy("drop"))
    assert report["splits"]["train"]["defects"]["duplicate_boxes"]["count"] == 1
    assert [a["id"] for a in prepared()["annotations"] if a["bbox"] == box] == [good]


def test_a_box_repeats_one_without_an_area_that_stays():
    data = Dataset()
    for area in (0, 25):
        number = data.add(data.content["images"][1], bbox=[0, 0, 5, 5], area=area)
    data.write(LAYOUT)
    report, _ = validate(LAYOUT, policy("ignore", duplicate_boxes="drop"))
    assert report["splits"]["train"]["defects"]["duplicate_boxes"]["ids"] == [number]


def test_marks_are_named_by_the_key_in_the_file():
    records = [{"id": 1}, {"id": 2, "attributes": {"Difficult": "true"}}, {"id": 3, "isCrowd": 1, "iscrowd": 0}]
    assert find_marks(records) == {1: ("attributes.Difficult", "true"), 2: ("isCrowd", 1)}


@pytest.mark.parametrize("choice", ["crowd", "drop"])
def test_a_study_treats_marks_of_both_splits(make_study, coco_folder, choice):
    shutil.rmtree("data")
    for split in ("train", "val"):
        path = coco_folder / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        content["annotations"][0]["ignore"] = 1
        path.write_text(json.dumps(content))
    with refused(r"instances_train.json: annotation 1 of image 11 has ignore 1.*; found besides: 1 of marked"):
        run(make_study(coco_format(coco_folder)))
    manifest = run(make_study({**coco_format(coco_folder), "validation": {"marked": choice}}))
    counts = {split: (part["boxes"], part["crowds"]) for split, part in manifest["splits"].items()}
    assert counts == {"train": (2, 2 if choice == "crowd" else 1), "val": (0, 1 if choice == "crowd" else 0)}
    assert "ignore" not in Path("data/annotations/instances_train.json").read_text()

"""Validation: each defect is found, named, and treated as the policy says; files stay as they are."""

import json
from pathlib import Path

import pytest
from defects import HEIGHT, MAKERS, OF_ANNOTATIONS, OF_IMAGES, SOURCE, WIDTH, Dataset, choices, layout, noise, policy
from promises import refused, said

from imbdet.data.coco import read_annotations
from imbdet.data.report import as_table
from imbdet.data.validate import validate
from imbdet.errors import UserError

LAYOUT = layout()
# What the message says of the defect; each names the file, an id and what to set.
MESSAGES = {
    "category_gaps": r"no category has id 4, but others have 1 to 9",
    "duplicate_image_ids": r"image id 20 stands 2 times; ids must be unique",
    "missing": r"image 20: data/train/20.png is missing",
    "unreadable": r"image 20: data/train/20.png is no image file of a known format",
    "truncated": r"image 20: data/train/20.png cannot be decoded",
    "other_size": r"image 20: data/train/20.png has 16 x 25 pixels \(height x width\), but its .* says 16 x 24",
    "one_pixel": r"image 20: data/train/20.png has 1 x 1 pixels",
    "huge": r"image 20: data/train/20.png has 1,200 pixels, above max_pixels 1,000",
    "other_mode": r"image 20: data/train/20.png has pixels of mode F \(stored as F;32F\), which are not read",
    "rotated": r"image 20: data/train/20.png has EXIF orientation 6",
    "grey": r"image 20: data/train/20.png has mode L",
    "cmyk": r"image 20: data/train/20.png has mode CMYK",
    "sixteen_bit": r"image 20: data/train/20.png has 16 bits a channel",
    "alpha": r"image 20: data/train/20.png has mode RGBA",
    "several_frames": r"image 20: data/train/20.png has several frames or pages",
    "marked_images": r"image 20 has ignore 1, by which other programs leave it out",
    "empty_images": r"image 20: no annotation is left to it",
    "duplicate_annotation_ids": r"annotation id 3 stands 2 times",
    "unknown_image": r"annotation 13 names image 999, which the file does not list",
    "unknown_category": r"annotation 13 names category 999, which the file does not list",
    "non_finite": r"annotation 13 of image 20 has bbox \[0, nan, 1, 1\] and area 0.1; expected",
    "negative_size": r"annotation 13 of image 20 has bbox \[1, 0, -0.5, 1\]; sizes must not be negative",
    "zero_size": r"annotation 13 of image 20 has bbox \[0, 0, 1, 0\], which has no width or height",
    "zero_area": r"annotation 13 has area 0.0, but its box has one",
    "outside": r"annotation 13 of image 20 has bbox \[24, 0, 3, 1\], outside the image's 24 x 16 pixels",
    "reaching_out": r"annotation 13 of image 20 has bbox \[0, 0, 24, 17\], which reaches out of the image's 24 x 16",
    "rounded_out": r"annotation 13 of image 20 has bbox \[-0.5, 0, 24, 16\], which reaches out of the image's 24 x 16",
    "duplicate_boxes": r"annotation 13 of image 20 has bbox .*, as an earlier annotation of the same category has",
    "crowds": r"annotation 13 of image 20 is a crowd",
    "lvis_keys": r"image 20 has LVIS's lists of categories, which COCO's rules do not read; .* has LVIS's rules",
    "marked": r"annotation 13 of image 20 has ignore 1, by which other programs leave it out",
}


@pytest.fixture(autouse=True)
def clean_val(tmp_path, monkeypatch):
    """A folder to work in, whose val split has no defect."""
    monkeypatch.chdir(tmp_path)
    Dataset(1).write(LAYOUT, "val")


def spoilt(*names):
    """A training split with defects, all of image 20, and the ids that have them."""
    data = Dataset()
    ids = [MAKERS[name](data, data.content["images"][1]) for name in names]
    data.write(LAYOUT)
    return data, ids


def prepared(split="train"):
    return json.loads(LAYOUT.annotations(split).read_text())


def found(report, split="train"):
    """The ids of each defect that was found."""
    return {name: d["ids"] for name, d in report["splits"][split]["defects"].items() if d["count"]}


@pytest.mark.promise("Each defect of a data set is refused by name if the policy says error", "bad input")
@pytest.mark.parametrize("name", MAKERS)
def test_a_defect_is_refused_with_its_file_id_and_what_to_set(name, capsys):
    spoilt(name)
    others = " or ".join(choice for choice in choices(name) if choice != "error")
    with refused(rf"^{SOURCE}: {MESSAGES[name]}.*; mend it, or set data.validation.{name} to {others}$"):
        validate(LAYOUT, policy(**{name: "error"}))
    assert f"| {name}: " in capsys.readouterr().out
    assert not LAYOUT.annotations("train").exists()


@pytest.mark.promise("Each defect of a data set is left out if the policy says drop, and nothing else is", "bad input")
@pytest.mark.parametrize("name", [*OF_IMAGES, *OF_ANNOTATIONS])
def test_a_defect_is_left_out(name):
    data, ids = spoilt(name)
    before = {path: path.read_bytes() for path in Path("data/train").iterdir()}
    report, _ = validate(LAYOUT, policy(**{name: "drop"}))
    assert found(report)[name][:1] == ids
    if name in OF_IMAGES:
        assert prepared() == data.without({20})
    else:
        data.content["annotations"].pop()
        assert prepared() == data.content
    assert {path: path.read_bytes() for path in Path("data/train").iterdir()} == before
    read_annotations(LAYOUT.annotations("train"))


@pytest.mark.promise("Defects that do no harm are counted and left alone if the policy says ignore", "bad input")
@pytest.mark.parametrize("name", [name for name in MAKERS if "ignore" in choices(name)])
def test_a_defect_is_counted(name):
    data, ids = spoilt(name)
    report, _ = validate(LAYOUT, policy(**{name: "ignore"}))
    assert found(report) == {name: ids}
    assert prepared() == data.content
    assert report["splits"]["train"]["defects"][name] == {"policy": "ignore", "count": 1, "ids": ids}


@pytest.mark.promise("Boxes that reach out of their image are cut if the policy says clip", "bad input")
@pytest.mark.parametrize(
    ("name", "box"),
    [("reaching_out", [0.0, 0.0, WIDTH, HEIGHT]), ("rounded_out", [0.0, 0.0, WIDTH - 0.5, HEIGHT])],
)
def test_a_box_is_cut(name, box):
    data, ids = spoilt(name)
    report, _ = validate(LAYOUT, policy(**{name: "clip"}))
    assert found(report) == {name: ids}
    data.content["annotations"][-1]["bbox"] = box
    assert prepared() == data.content
    data.content = prepared()
    data.write(LAYOUT)  # what was cut has no defect any more
    Dataset(1).write(LAYOUT, "val")
    assert found(validate(LAYOUT, policy("error"))[0]) == {}


@pytest.mark.parametrize(("rounding", "name"), [(0.49, "reaching_out"), (0.5, "reaching_out"), (0.51, "rounded_out")])
def test_how_far_a_box_may_reach_through_rounding_is_a_setting(rounding, name):
    _, ids = spoilt("rounded_out")
    assert found(validate(LAYOUT, policy(rounding=rounding))[0]) == {name: ids}


@pytest.mark.promise("What COCO itself has goes through by default", "law")
def test_the_defaults_let_coco_s_own_defects_through():
    """As annotation 918 of image 200365, images without boxes, crowds, ids with gaps and grey images."""
    data, _ = spoilt("zero_size", "crowds", "category_gaps")
    record = data.content["images"][2]
    MAKERS["empty_images"](data, record)
    MAKERS["grey"](data, data.content["images"][3])
    data.write(LAYOUT)
    report, _ = validate(LAYOUT, policy("none"))  # no choice has this name: the defaults
    assert found(report) == {
        "category_gaps": [4],
        "grey": [40],
        "empty_images": [30],
        "zero_size": [13],
        "crowds": [14],
    }
    data.content["annotations"] = [a for a in data.content["annotations"] if a["id"] != 13]
    assert prepared() == data.content


def test_several_kinds_are_named_at_once():
    spoilt("unknown_category", "outside", "non_finite", "unknown_image")
    with refused(
        r"annotation 16 names image 999.*; found besides: 1 of unknown_category, 1 of non_finite, 1 of outside$"
    ):
        validate(LAYOUT, policy())


def test_the_first_and_the_number_of_the_others_are_named():
    data = Dataset()
    for record in data.content["images"]:
        MAKERS["outside"](data, record)
    data.write(LAYOUT)
    with refused(r"annotation 13 of image 10 .*\(and 5 more, ids 13, 14, 15, 16, 17, \.\.\.\)"):
        validate(LAYOUT, policy())


@pytest.mark.promise(
    "Images with a defect are listed as in quarantine, and too many of them refuse the data", "bad input"
)
def test_quarantine_is_listed_and_limited():
    data = Dataset()
    for name, record in zip(("truncated", "unreadable"), data.content["images"], strict=False):
        MAKERS[name](data, record)
    data.write(LAYOUT)
    with refused(
        rf"{SOURCE}: 2 of 6 images would be left out, first 20.png \(unreadable\).*quarantine_share allows 0.3"
    ):
        validate(LAYOUT, policy("drop", quarantine_share=0.3))
    assert not LAYOUT.annotations("train").exists()
    assert not Path("data/quarantine.txt").exists()
    report, _ = validate(LAYOUT, policy("drop", quarantine_share=0.34))
    assert Path("data/quarantine.txt").read_text() == "train/10.png: truncated\ntrain/20.png: unreadable\n"
    assert report["splits"]["train"]["images_in_quarantine"] == 2
    Dataset().write(LAYOUT)
    Dataset(1).write(LAYOUT, "val")
    validate(LAYOUT, policy())
    assert not Path("data/quarantine.txt").exists()


@pytest.mark.promise(
    "Images with a defect are listed as in quarantine, and too many of them refuse the data", "bad input"
)
def test_a_split_of_which_nothing_is_left_is_refused():
    data = Dataset(2)
    data.files = dict.fromkeys(data.files, b"no image")
    data.write(LAYOUT)
    with refused(r"data.validation leaves out all of its 2 images"):
        validate(LAYOUT, policy("drop"))


def test_annotations_are_refused_before_any_image_is_read(monkeypatch):
    spoilt("outside")
    monkeypatch.setattr("imbdet.data.image_files.look", None)
    with pytest.raises(UserError, match="outside the image"):
        validate(LAYOUT, policy())


def test_images_that_were_looked_at_before_are_not_read_again(monkeypatch):
    data, _ = spoilt("truncated", "grey")
    MAKERS["truncated"](data, data.content["images"][3])
    chosen = policy("drop", grey="ignore")
    data.write(LAYOUT)
    first, images = validate(LAYOUT, chosen)
    admitted = prepared()
    monkeypatch.setattr("imbdet.data.image_files.look", None)
    data.write(LAYOUT)
    Dataset(1).write(LAYOUT, "val")
    assert validate(LAYOUT, chosen, images) == (first, images)
    assert prepared() == admitted


def test_a_record_lists_twenty_ids_and_counts_all():
    data = Dataset()
    ids = [data.add(data.content["images"][0], iscrowd=1) for _ in range(30)]
    data.write(LAYOUT)
    report, _ = validate(LAYOUT, policy())
    assert report["splits"]["train"]["defects"]["crowds"] == {"policy": "ignore", "count": 30, "ids": ids[:20]}
    assert "| crowds: annotation of a crowd, a region to ignore | ignore | 30 | 0 | train: 13, 14, " in as_table(report)


def test_the_table_of_a_good_data_set_says_what_was_looked_for():
    Dataset().write(LAYOUT)
    report, _ = validate(LAYOUT, policy("error"))
    table = as_table(report)
    said(r"No defects were found", table)
    assert all(name in table for name in MAKERS)
    assert "train: 6 of 6 images and 12 of 12 annotations are kept, 0 images are in quarantine." in table


@pytest.mark.promise("LVIS's marks of what was not annotated are kept", "law")
def test_the_keys_of_lvis_are_kept():
    data = Dataset()
    data.content["images"][0] |= {"neg_category_ids": [3], "not_exhaustive_category_ids": [2], "coco_url": "x"}
    data.content["categories"][0] |= {"frequency": "r", "synset": "x"}
    data.write(LAYOUT)
    validate(LAYOUT, policy())
    image = data.content["images"][0]
    del image["coco_url"], data.content["categories"][0]["synset"]
    assert prepared() == data.content


def test_a_form_of_an_image_that_is_not_its_name_is_fine():
    data = Dataset()
    data.files["20.png"] = noise(kind="JPEG")
    data.write(LAYOUT)
    assert found(validate(LAYOUT, policy("error"))[0]) == {}

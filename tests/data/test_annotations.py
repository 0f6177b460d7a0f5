"""COCO annotation files as arrays: what is kept, what is dropped, what is refused and in which words."""

import json
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promises import refused
from pycocotools.coco import COCO

from imbdet.data.coco import (
    Categories,
    admit_annotations,
    parse_annotations,
    read_annotations,
    read_collected,
    read_json,
    write_annotations,
)
from imbdet.errors import UserError

HERE = Path("some/instances_train.json")


def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 30, "file_name": "c.jpg", "height": 10, "width": 20},
            {"id": 10, "file_name": "a.jpg", "height": 30, "width": 40},
            {"id": 20, "file_name": "sub/b.jpg", "height": 50, "width": 60},
        ],
        "annotations": [
            {"id": 5, "image_id": 30, "category_id": 18, "bbox": [1, 2, 3.5, 4], "iscrowd": 0},
            {"id": 6, "image_id": 10, "category_id": 2, "bbox": [0.25, 0, 5, 6], "iscrowd": 0},
            {"id": 7, "image_id": 10, "category_id": 18, "bbox": [9, 9, 9, 9], "iscrowd": 1},
            {"id": 8, "image_id": 10, "category_id": 18, "bbox": [7, 7, 1, 1]},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "bicycle"}],
    }


def test_arrays_of_a_small_file() -> None:
    split = parse_annotations(content(), HERE)
    assert split.image_ids.tolist() == [10, 20, 30]
    assert split.file_names == ("a.jpg", "sub/b.jpg", "c.jpg")
    assert split.sizes.tolist() == [[30, 40], [50, 60], [10, 20]]
    assert split.categories.ids.tolist() == [2, 18]
    assert split.categories.names == ("bicycle", "dog")
    assert split.objects.boxes.tolist() == [[0.25, 0, 5.25, 6], [7, 7, 8, 8], [1, 2, 4.5, 6]]
    assert split.objects.boxes.dtype == np.float32
    assert split.objects.labels.tolist() == [0, 1, 1]
    assert split.objects.ids.tolist() == [6, 8, 5]
    assert split.objects.images.tolist() == [0, 0, 2]
    assert [split.objects.rows(i) for i in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 3)]
    assert split.crowds.boxes.tolist() == [[9, 9, 18, 18]]
    assert split.crowds.images.tolist() == [0]


@given(st.randoms(use_true_random=False))
def test_the_order_of_images_and_categories_in_the_file_means_nothing(rng: random.Random) -> None:
    shuffled = content()
    rng.shuffle(shuffled["images"])
    rng.shuffle(shuffled["categories"])
    assert repr(parse_annotations(shuffled, HERE)) == repr(parse_annotations(content(), HERE))


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=20), st.data())
def test_labels_and_category_ids_are_inverse(ids: set[int], data: st.DataObject) -> None:
    ordered = np.array(sorted(ids))
    categories = Categories(ordered, tuple(map(str, ordered)))
    labels = categories.labels(ordered)
    assert labels.tolist() == list(range(len(ids)))
    assert categories.category_ids(labels).tolist() == ordered.tolist()
    other = data.draw(st.integers(-5, 10**6 + 5).filter(lambda i: i not in ids))
    assert categories.labels(np.array([other])).tolist() == [-1]


def test_an_image_s_boxes_keep_the_order_of_the_file() -> None:
    box = {"category_id": 2, "bbox": [0, 0, 1, 1]}
    raw = content() | {"annotations": [{"id": i, "image_id": 10 + 10 * (i % 2), **box} for i in range(300, 0, -1)]}
    ids = parse_annotations(raw, HERE).objects.ids.tolist()
    assert ids == [*range(300, 0, -2), *range(299, 0, -2)]


BAD = {
    "unknown image": ("annotations", 1, "image_id", 99, "annotation 6 names image 99"),
    "unknown category": ("annotations", 1, "category_id", 3, "annotation 6 names category 3"),
    "NaN box": ("annotations", 1, "bbox", [0, 0, float("nan"), 1], "annotation 6 of image 10 has bbox [0, 0, nan, 1]"),
    "infinite box": ("annotations", 0, "bbox", [0, float("inf"), 1, 1], "annotation 5 of image 30 has bbox [0, inf, 1"),
    "no height": ("annotations", 0, "bbox", [1, 2, 3, 0], "annotation 5 of image 30 has bbox [1, 2, 3, 0]; expected"),
    "negative": ("annotations", 3, "bbox", [1, 2, -3, 4], "annotation 8 of image 10 has bbox [1, 2, -3, 4]; expected"),
    "huge number": ("annotations", 0, "bbox", [1, 2, 3, 10**400], "annotation 5 of image 30 has bbox [1, 2, 3, 10000"),
    "true": ("annotations", 0, "bbox", [1, 2, 3, True], "annotation 5 of image 30 has bbox [1, 2, 3, True]; expected"),
    "id beyond 64 bits": ("annotations", 1, "image_id", 2**63, "annotation 6 has image_id 9223372036854775808; exp"),
    "three numbers": ("annotations", 1, "bbox", [0, 0, 1], "annotation 6 of image 10 has bbox [0, 0, 1]; expected"),
    "no box": ("annotations", 1, "bbox", None, "annotation 6 of image 10 has bbox None; expected [x, y, width"),
    "words": ("annotations", 1, "bbox", ["a", 0, 1, 1], "annotation 6 of image 10 has bbox ['a', 0, 1, 1]"),
    "annotation twice": ("annotations", 1, "id", 5, "annotation id 5 stands 2 times"),
    "image twice": ("images", 0, "id", 10, "image id 10 stands 2 times"),
    "category twice": ("categories", 0, "id", 2, "category id 2 stands 2 times"),
    "id in quotes": (
        "images",
        1,
        "id",
        "10",
        "'file_name': 'a.jpg', 'height': 30, 'width': 40} has id '10'; expected an",
    ),
    "no width": ("images", 1, "width", None, "image 10 has width None; expected an integer"),
    "no pixels": ("images", 1, "height", 0, "image 10 has height and width [0, 40]; expected at least 1"),
    "no file name": ("images", 1, "file_name", None, "image 10 has file_name None; expected a path inside"),
    "absolute name": ("images", 1, "file_name", "/etc/x.jpg", "image 10 has file_name '/etc/x.jpg'"),
    "file name twice": ("images", 1, "file_name", "c.jpg", "file_name 'c.jpg' stands more than once"),
    "file name twice, spelt otherwise": (
        "images",
        2,
        "file_name",
        "./c.jpg",
        "file_name 'c.jpg' stands more than once, of images 30 and 20; each",
    ),
    "a file in a file": (
        "images",
        1,
        "file_name",
        "sub",
        "image 10 has file_name 'sub', which is the folder of 'sub/b.jpg' of image 20; a path is a file or a folder",
    ),
    "a file in a file, spelt otherwise": (
        "images",
        1,
        "file_name",
        "c.jpg//x/a.jpg",
        "image 30 has file_name 'c.jpg', wh",
    ),
    "hidden file": (
        "images",
        1,
        "file_name",
        ".a.jpg",
        "image 10 has file_name '.a.jpg', but names with a dot in front",
    ),
    "hidden folder": (
        "images",
        1,
        "file_name",
        "a/.b/c.jpg",
        "image 10 has file_name 'a/.b/c.jpg', but names with a dot",
    ),
    "the folder itself": ("images", 1, "file_name", "./", "image 10 has file_name './', but names with a dot in front"),
    "long name": (
        "images",
        1,
        "file_name",
        "a" * 252 + ".jpg",
        ".jpg', of which a part has 256 bytes; file systems all",
    ),
    "long folder of short characters": (
        "images",
        1,
        "file_name",
        "\u00e4" * 128 + "/a.jpg",
        "of which a part has 256 by",
    ),
    "zero byte": ("images", 1, "file_name", "a\0.jpg", "image 10 has file_name 'a\\x00.jpg'"),
    "half a character": ("images", 1, "file_name", "\ud800.jpg", "image 10 has file_name '\\ud800.jpg'"),
    "crowd in words": ("annotations", 1, "iscrowd", "0", "annotation 6 has iscrowd '0'; expected 0 or 1"),
    "category without a name": ("categories", 0, "name", None, "category 18 has name None; expected a line of text"),
    "category with an empty name": ("categories", 1, "name", "", "category 2 has name ''; expected a line of text"),
    "category with a blank name": (
        "categories",
        0,
        "name",
        " \u00a0",
        "category 18 has name ' \\xa0'; expected a line",
    ),
    "category with a number for a name": ("categories", 0, "name", 18, "category 18 has name 18; expected a line of"),
    "category with a list of names": ("categories", 0, "name", ["a"], "category 18 has name ['a']; expected a line"),
    "category with two lines for a name": ("categories", 0, "name", "a\nb", "category 18 has name 'a\\nb'; expected a"),
    "half a character in a category": ("categories", 0, "name", "\ud800", "category 18 has name '\\ud800'; expected"),
    "leads out": ("images", 1, "file_name", "../x.jpg", "image 10 has file_name '../x.jpg'"),
}


@pytest.mark.promise("A bad value in an annotation file is named with its record", "bad input")
@pytest.mark.parametrize("case", BAD)
def test_a_bad_value_is_named(case: str) -> None:
    part, row, key, value, message = BAD[case]
    raw = content()
    raw[part][row][key] = value
    with refused(f"^{HERE}: .*{re.escape(message)}"):
        parse_annotations(raw, HERE)


@pytest.mark.parametrize(
    ("spelt", "name"),
    [("./a.jpg", "a.jpg"), ("a//b.jpg", "a/b.jpg"), ("a/./b.jpg", "a/b.jpg"), ("a" * 255, "a" * 255), ("a./b", "a./b")],
)
def test_a_file_name_is_kept_in_its_shortest_spelling(tmp_path: Path, spelt: str, name: str) -> None:
    raw = content()
    raw["images"][1]["file_name"] = spelt
    path = tmp_path / "instances_train.json"
    assert write_annotations(path, raw, HERE).file_names == ("c.jpg", name, "sub/b.jpg")
    assert [image["file_name"] for image in read_collected(path).content["images"]] == ["c.jpg", name, "sub/b.jpg"]


def test_a_category_without_the_key_of_its_name_is_refused_where_the_data_are_made(tmp_path: Path) -> None:
    """Before any training, with the file that the user has to mend."""
    raw = content()
    del raw["categories"][1]["name"]
    with refused(f"^{HERE}: category 2 has name None; .*write the name of the class there"):
        write_annotations(tmp_path / "instances_train.json", raw, HERE)


@pytest.mark.parametrize("name", ["01", " a ", "$", "nan", "<b>", "日本", "\U0001f642\u200d", "x" * 1000])
def test_any_other_line_of_text_is_the_name_of_a_category_as_it_stands(name: str) -> None:
    raw = content()
    raw["categories"][0]["name"] = name
    assert parse_annotations(raw, HERE).categories.names == ("bicycle", name)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_missing_part_is_named(key: str) -> None:
    raw = content()
    del raw[key]
    for wrong in (raw, raw | {key: 3}, raw | {key: [3]}, [raw]):
        with pytest.raises(UserError, match=rf"{HERE} is no COCO annotation file: it needs a list.*'"):
            parse_annotations(wrong, HERE)


@pytest.mark.parametrize("key", ["images", "categories"])
def test_an_empty_part_is_refused(key: str) -> None:
    with pytest.raises(UserError, match="must not be empty"):
        parse_annotations(content() | {key: []}, HERE)


def test_no_annotations_are_no_boxes() -> None:
    split = parse_annotations(content() | {"annotations": []}, HERE)
    assert (len(split.objects), len(split.crowds)) == (0, 0)
    assert split.objects.rows(2) == slice(0, 0)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "instances_val.json"
    with pytest.raises(UserError, match=r"instances_val.json does not exist; `python -m imbdet data`"):
        read_json(path)
    for broken in (b'{"images": [', b"\xff\xfe\x00"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"instances_val.json is not valid JSON"):
            read_json(path)


def test_what_is_collected_and_admitted_is_read_as_it_was_without_masks(tmp_path: Path) -> None:
    raw = content()
    raw["annotations"][0]["segmentation"] = [[1, 2, 3, 4, 5, 6]]
    path = tmp_path / "a" / "instances_train.json"
    assert write_annotations(path, raw, HERE).file_names == ("c.jpg", "a.jpg", "sub/b.jpg")
    assert not path.exists()
    table = read_collected(path)
    assert table.path == HERE
    admit_annotations(path, table.content)
    assert list(path.parent.iterdir()) == [path]
    assert repr(read_annotations(path)) == repr(parse_annotations(raw, path))
    assert "segmentation" not in path.read_text()


def test_admitting_the_same_again_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "instances_train.json"
    states = []
    for _ in range(2):
        write_annotations(path, content(), HERE)
        admit_annotations(path, read_collected(path).content)
        states.append((path.stat().st_mtime_ns, path.stat().st_ino))
    assert states[0] == states[1]


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_annotations_agree_with_pycocotools(shared: Path, tmp_path: Path, split: str) -> None:
    archive = shared / "data" / "coco-mirror" / "annotations" / "annotations_trainval2017.zip"
    path = tmp_path / "instances.json"
    path.write_bytes(zipfile.ZipFile(archive).read(f"annotations/instances_{split}2017.json"))
    ours, theirs = read_annotations(path), COCO(path)
    assert ours.categories.ids.tolist() == sorted(theirs.getCatIds())
    assert len(ours.categories) == 80
    for regions, crowd in ((ours.objects, False), (ours.crowds, True)):
        assert sorted(regions.ids.tolist()) == sorted(theirs.getAnnIds(iscrowd=crowd))
        records = theirs.loadAnns(regions.ids.tolist())
        xywh = np.array([record["bbox"] for record in records])
        assert np.allclose(regions.boxes, np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1), atol=1e-4)
        categories = ours.categories.category_ids(regions.labels)
        assert categories.tolist() == [record["category_id"] for record in records]
        assert ours.image_ids[regions.images].tolist() == [record["image_id"] for record in records]
    names = json.loads(path.read_text())["images"]
    assert dict(zip(ours.image_ids.tolist(), ours.file_names, strict=True)) == {r["id"]: r["file_name"] for r in names}

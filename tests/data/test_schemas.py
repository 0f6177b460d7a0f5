"""Files that are no annotations of COCO for detection: the message says what they look like."""

import json
from pathlib import Path

import pytest
from promises import refused

from imbdet.data.coco import parse_json, write_annotations

HERE = Path("some/instances_train.json")
RECORD = {"images": [{"id": 1}], "categories": [{"id": 1}]}
FILES = {
    "empty": (b"", r"is empty; restore it"),
    "blank": (b" \n\t\n", r"is empty; restore it"),
    "cut": (b'{"images": [', r"is not valid JSON \(.*\); restore it, or remove it and make it again"),
    "bytes": (b"\xff\xfe\x00", r"is not valid JSON"),
    "digits": (b'{"id": ' + b"9" * 5000 + b"}", r"is not valid JSON .*; restore it, or remove it and make it again"),
    "nested": (b"[" * 200_000, r"nests too deeply"),
    "VOC": (b"<annotation>\n<folder>VOC2007</folder>", r"looks like Pascal VOC's XML; data.source voc_format reads it"),
    "VOC with a head": (b'<?xml version="1.0"?>\n<annotation verified="yes">', r"looks like Pascal VOC's XML"),
    "XML": (b"<?xml version='1.0'?><boxes/>", r"looks like XML"),
    "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", r"looks like a web page"),
    "YOLO": (b"0 0.5 0.5 0.25 0.1\n3 .1 .2 1e-2 0.3\n", r"looks like YOLO's labels .*; convert them to COCO's format"),
    "zip": (b"PK\x03\x04\x14\x00", r"looks like an archive; unpack it"),
    "gzip": (b"\x1f\x8b\x08\x00", r"looks like an archive; unpack it"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", r"looks like a pointer of Git LFS; run `git lfs"),
}
CONTENTS = {
    "panoptic": (
        RECORD | {"annotations": [{"segments_info": [], "image_id": 1}]},
        r"looks like COCO's panoptic format",
    ),
    "captions": (RECORD | {"annotations": [{"id": 1, "caption": "a dog"}]}, r"looks like COCO's captions"),
    "results": ([{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}], r"looks like COCO's results \(detections"),
    "test images": (RECORD, r"looks like COCO's list of test images"),
    "LabelMe": ({"shapes": [], "imagePath": "a.jpg"}, r"looks like a file of LabelMe"),
    "a number": (7, r"needs a list of records under 'images'$"),
    "a string": ("images", r"needs a list of records under 'images'$"),
    "other keys": ({"data": []}, r"needs a list of records under 'images'$"),
    "an object": (RECORD | {"annotations": {}}, r"needs a list of records under 'annotations'$"),
}


@pytest.mark.promise("A file that is not JSON is refused, saying what it looks like", "bad input")
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_not_json(kind):
    content, message = FILES[kind]
    with refused(rf"^{HERE} {message}" if message.startswith(("is", "nests")) else message):
        parse_json(content, HERE)


@pytest.mark.promise("A file of another schema is refused, saying what it looks like", "bad input")
@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_of_another_schema(kind, tmp_path):
    content, message = CONTENTS[kind]
    with refused(rf"^{HERE} is no COCO annotation file: it .*{message}"):
        write_annotations(tmp_path / "instances_train.json", parse_json(json.dumps(content).encode(), HERE), HERE)
    assert not list(tmp_path.iterdir())


def test_a_byte_order_mark_is_no_fault():
    assert parse_json(b"\xef\xbb\xbf{}", HERE) == {}

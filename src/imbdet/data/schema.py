"""What a file that is no COCO annotation file looks like, for the messages about it."""

import codecs
import re
from typing import Any

_NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
_YOLO = re.compile(rf"\s*\d+(?:[ \t]+{_NUMBER}){{4,}}[ \t]*(?:\r?\n|$)")
_HEADS = (
    (re.compile(r"(?:<\?xml[^>]*>\s*)?<annotation\b"), "Pascal VOC's XML; data.source voc_format reads it"),
    (re.compile(r"<(?:!doctype\s+)?html", re.IGNORECASE), "a web page, which servers send in place of a file"),
    (re.compile(r"<\?xml"), "XML; convert it to COCO's format"),
    (re.compile(r"PK\x03\x04|\x1f\x8b"), "an archive; unpack it"),
    (re.compile(r"version https://git-lfs"), "a pointer of Git LFS; run `git lfs pull`"),
    (_YOLO, "YOLO's labels (class x y width height); convert them to COCO's format"),
)


def looks_like_text(content: bytes) -> str | None:
    """Name the format of a file that is not JSON, with what to do; None where it is not known."""
    head = content.removeprefix(codecs.BOM_UTF8).lstrip()[:2000].decode("latin-1")
    return next((name for pattern, name in _HEADS if pattern.match(head)), None)


def looks_like(raw: Any) -> str | None:
    """Name the format of JSON content that is not COCO's for detection, with what to do; None if it is or may be."""
    if isinstance(raw, list):
        detections = bool(raw) and all(isinstance(r, dict) and "image_id" in r and "score" in r for r in raw[:10])
        return "COCO's results (detections, not ground truth)" if detections else None
    if not isinstance(raw, dict):
        return None
    annotations = raw.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    keys = first.keys() if isinstance(first, dict) else set()
    formats = (
        ("segments_info" in keys, "COCO's panoptic format; take the instances file"),
        ("caption" in keys and "bbox" not in keys, "COCO's captions; take the instances file"),
        ({"shapes", "imagePath"} <= raw.keys(), "a file of LabelMe; convert it to COCO's format"),
        (
            {"images", "categories"} <= raw.keys() and annotations is None,
            "COCO's list of test images, whose annotations are not public",
        ),
    )
    return next((name for fits, name in formats if fits), None)

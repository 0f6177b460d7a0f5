"""Marks to leave a record out. COCO's format has ``iscrowd`` alone; other programs have keys of their own."""

import re
from collections.abc import Iterator
from typing import Any

# The letters of a key: mmdetection's and CityPersons' ``ignore``, BDD100K's ``ignored``, VOC's ``difficult``, WIDER
# FACE's ``invalid``, KITTI's ``DontCare``, Open Images' ``IsGroupOf``, other spellings of ``iscrowd``.
_MARK = re.compile(r"(is)?(ignored?|ignore(flags?|regions?|areas?)|difficult|invalid|dontcare|crowd|groupof)|isgroup")
# What holds marks inside a record: CVAT's and Datumaro's attributes, CrowdHuman's extra, labelme's flags, tags.
HOLDERS = ("attribute", "attributes", "extra", "flags", "metadata", "properties", "tags")
_NO = ("", "0", "false", "no")

Record = dict[str, Any]


def find_marks(records: list[Record]) -> dict[int, tuple[str, Any]]:
    """Find the key and value of each record that is marked, by its row: any value is a mark that is not clearly no."""
    marks: dict[int, tuple[str, Any]] = {}
    keys = set[str]().union(*records)
    for key in sorted(filter(_is_mark, keys - {"iscrowd"})):
        for row, record in enumerate(records):
            if key in record and not _is_no(record[key]):
                marks.setdefault(row, (key, record[key]))
    for holder in sorted(keys.intersection(HOLDERS)):
        for row, record in enumerate(records):
            for key, value in _pairs(record.get(holder)):
                if _is_mark(key) and not _is_no(value):
                    marks.setdefault(row, (f"{holder}.{key}", value))
    return marks


def _pairs(held: Any) -> Iterator[tuple[str, Any]]:
    """List keys and values of a record, of a list of records that name their key, and of words, which say yes."""
    for item in held if isinstance(held, list) else [held]:
        if isinstance(item, dict):
            yield from item.items()
            yield from ((item[key], item.get("value", True)) for key in ("name", "key") if type(item.get(key)) is str)
        elif isinstance(item, str):
            yield item, True


def _is_mark(key: str) -> bool:
    return _MARK.fullmatch(re.sub("[^a-z]", "", key.lower())) is not None


def _is_no(value: Any) -> bool:
    return value.strip().lower() in _NO if isinstance(value, str) else value in (0, None)

"""Marks to leave an annotation out. COCO's format has ``iscrowd`` alone; other programs have keys of their own."""

import re
from collections.abc import Iterator
from typing import Any

# Keys in small letters without a leading "is": mmdetection's and CityPersons' ``ignore``, BDD100K's ``ignored``, VOC's
# ``difficult``, WIDER FACE's ``invalid``, Open Images' ``IsGroupOf``, other spellings of ``iscrowd``.
MARKS = {"ignore", "ignored", "difficult", "invalid", "groupof", "crowd"}
HOLDERS = ("attributes", "extra")  # CVAT's and Datumaro's, CrowdHuman's: records inside an annotation
_TEXTS = {"": False, "0": False, "false": False, "1": True, "true": True}

Record = dict[str, Any]


def find_marks(records: list[Record]) -> dict[int, tuple[str, Any]]:
    """Return key and value of each annotation that is marked, by its row.

    Raises ValueError, naming the annotation, for a value that is neither yes nor no.
    """
    marks: dict[int, tuple[str, Any]] = {}
    for prefix, holders in _holders(records):
        for key in sorted(filter(_is_mark, set[str]().union(*holders.values()))):
            for row, holder in holders.items():
                value = holder.get(key)
                if _is_yes(value, f"annotation {records[row].get('id')} has {prefix}{key}"):
                    marks.setdefault(row, (f"{prefix}{key}", value))
    return marks


def _holders(records: list[Record]) -> Iterator[tuple[str, dict[int, Record]]]:
    """Records that may hold marks, by row: the annotations, and what they hold; with what stands before their keys."""
    yield "", dict(enumerate(records))
    for name in HOLDERS:
        yield f"{name}.", {row: r[name] for row, r in enumerate(records) if name in r and isinstance(r[name], dict)}


def _is_mark(key: str) -> bool:
    return key != "iscrowd" and re.sub("[^a-z]", "", key.lower()).removeprefix("is") in MARKS


def _is_yes(value: Any, whose: str) -> bool:
    known = _TEXTS.get(value.strip().lower(), value) if isinstance(value, str) else value
    if known not in (None, 0, 1):
        raise ValueError(f"{whose} {value!r}; expected 0 or 1")
    return bool(known)

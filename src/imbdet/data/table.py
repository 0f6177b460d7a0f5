"""An annotation file as columns, in its own order, defects and all: only its form is checked here."""

import posixpath
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imbdet.data.archives import leads_out
from imbdet.data.marks import find_marks
from imbdet.data.schema import looks_like
from imbdet.errors import UserError
from imbdet.settings import is_line

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Marks = dict[int, tuple[str, Any]]
_UNFIT = re.compile(r"[\x00-\x1f\ud800-\udfff]")  # in file names: control characters, halves of characters
_LONGEST = 255  # bytes of a name in a folder, on all common file systems
LARGEST = 1e9  # pixels; beyond it a number is no position in an image


@dataclass(frozen=True)
class Table:
    """The I images, K categories and n annotations of the file ``path``.

    content: the file. image_ids: [I] int64. file_names: I paths inside the split's folder. sizes: [I, 2] int64, height
    and width, pixels. category_ids: [K] int64. category_names: K names, of one line each. ids, images, categories: [n]
    int64, ids of annotations, of their images and categories. boxes: [n, 4] float64, x y width height; NaN where the
    file has something else. areas: [n] float64, the box's where the file has none, NaN where it is no number. crowd:
    [n] bool. marks, image_marks: key and value of each annotation, no crowd, and of each image that is marked to be
    left out (:mod:`imbdet.data.marks`), by its row; an annotation has its own mark or that of its category.
    """

    path: Path
    content: dict[str, Any]
    image_ids: Ints
    file_names: tuple[str, ...]
    sizes: Ints
    category_ids: Ints
    category_names: tuple[str, ...]
    ids: Ints
    images: Ints
    categories: Ints
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: Mask
    marks: Marks
    image_marks: Marks

    @property
    def marked(self) -> Mask:
        """[n] whether an annotation has a mark to leave it out."""
        return np.isin(np.arange(len(self.ids)), list(self.marks))

    @property
    def known_image(self) -> Mask:
        """[n] whether the image of an annotation is listed."""
        return np.isin(self.images, self.image_ids)

    @property
    def image_rows(self) -> Ints:
        """[n] int64, the row of each annotation's image; of the first image that has the id, any row for unknown."""
        order = np.argsort(self.image_ids, kind="stable")
        place = np.searchsorted(self.image_ids[order], self.images)
        return order[np.minimum(place, len(order) - 1)]

    def describe_box(self, row: int) -> str:
        """``annotation 6 of image 10 has bbox [0, 0, 1]``, for messages."""
        box = self.content["annotations"][row].get("bbox")
        return f"annotation {self.ids[row]} of image {self.images[row]} has bbox {box!r}"


def read_table(content: Any, path: Path) -> Table:
    """Turn the content of a COCO annotation file into columns.

    A file name is kept in its shortest spelling: ``a//b.png`` and ``./a/b.png`` are ``a/b.png``.

    Raises :class:`UserError`, naming file, record and value, for content of another schema; for ids and sizes that are
    no integers; for sizes below one pixel; for file names that lead out of their folder, are hidden or too long, or
    stand for several images or a folder of them; for category ids that are repeated and categories without a name; and
    where there is no image or category.
    """
    images, categories, records = (_records(content, key, path) for key in ("images", "categories", "annotations"))
    if not images or not categories:
        raise UserError(f"{path}: 'images' and 'categories' must not be empty")
    image_ids = _column(images, "id", "image", path)
    sizes = np.stack([_column(images, key, "image", path) for key in ("height", "width")], axis=1)
    if (sizes < 1).any():
        i = int(np.argmin(sizes.min(axis=1)))
        raise UserError(f"{path}: image {image_ids[i]} has height and width {sizes[i].tolist()}; expected at least 1")
    category_ids = _column(categories, "id", "category", path)
    for value, count in Counter(category_ids.tolist()).items():
        if count > 1:
            raise UserError(f"{path}: category id {value} stands {count} times; ids must be unique")
    boxes = np.array([_box(record.get("bbox")) for record in records], dtype=np.float64).reshape(len(records), 4)
    areas = np.array([_number(record["area"]) if "area" in record else np.inf for record in records], dtype=np.float64)
    crowd = _crowds(records, path)
    names = _file_names(images, path)
    return Table(
        path=path,
        content=content | {"images": [r | {"file_name": name} for r, name in zip(images, names, strict=True)]},
        image_ids=image_ids,
        file_names=names,
        sizes=sizes,
        category_ids=category_ids,
        category_names=_category_names(categories, path),
        ids=_column(records, "id", "annotation", path),
        images=_column(records, "image_id", "annotation", path),
        categories=_column(records, "category_id", "annotation", path),
        boxes=boxes,
        areas=np.where(np.isinf(areas), boxes[:, 2] * boxes[:, 3], areas),
        crowd=crowd,
        marks={row: mark for row, mark in _marks(records, categories).items() if not crowd[row]},
        image_marks=find_marks(images),
    )


def corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n, 4] x y width height to xyxy."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def has_area(boxes: NDArray[np.float64]) -> Mask:
    """[n] whether boxes (x y width height) have width and height in single precision, which detectors train in."""
    xyxy = corners(boxes).astype(np.float32)
    return (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])


def _box(value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) != 4:
        return [np.nan] * 4
    return [_number(number) for number in value]


def _number(value: Any) -> float:
    """A finite number of JSON as float; NaN for all else, also for what no image is large enough for."""
    return float(value) if type(value) in (int, float) and abs(value) < LARGEST else np.nan


def _records(raw: Any, key: str, path: Path) -> list[Any]:
    records = raw.get(key) if isinstance(raw, dict) else None
    other = looks_like(raw)
    if other or not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        hint = f"; it looks like {other}" if other else ""
        raise UserError(f"{path} is no COCO annotation file: it needs a list of records under {key!r}{hint}")
    return records


def _column(records: list[Any], key: str, what: str, path: Path) -> Ints:
    """An integer of each record, [n] int64."""
    values = [record.get(key) for record in records]
    for record, value in zip(records, values, strict=True):
        if type(value) is not int or not -(2**63) <= value < 2**63:
            name = f"{what} {record['id']}" if key != "id" and "id" in record else f"{what} {str(record)[:80]}"
            raise UserError(f"{path}: {name} has {key} {value!r}; expected an integer")
    return np.array(values, dtype=np.int64)


def _crowds(records: list[Any], path: Path) -> Mask:
    values = [record.get("iscrowd", 0) for record in records]
    for record, value in zip(records, values, strict=True):
        if value not in (0, 1):
            raise UserError(f"{path}: annotation {record['id']} has iscrowd {value!r}; expected 0 or 1")
    return np.array(values, dtype=bool)


def _marks(records: list[Any], categories: list[Any]) -> Marks:
    """Marks of annotations: their own, else those of their categories."""
    of_category = {
        categories[row]["id"]: (f"category {categories[row]['id']} with {key}", value)
        for row, (key, value) in find_marks(categories).items()
    }
    inherited = {
        row: of_category[record["category_id"]]
        for row, record in enumerate(records if of_category else [])
        if record["category_id"] in of_category
    }
    return inherited | find_marks(records)


def _category_names(categories: list[Any], path: Path) -> tuple[str, ...]:
    """Names for records, figures and reports, all of which tell classes by them."""
    names = tuple(record.get("name") for record in categories)
    for record, name in zip(categories, names, strict=True):
        if not is_line(name):
            raise UserError(
                f"{path}: category {record['id']} has name {name!r}; expected a line of text that is not blank; write "
                "the name of the class there"
            )
    return names


def _file_names(images: list[Any], path: Path) -> tuple[str, ...]:
    names = tuple(_file_name(record, path) for record in images)
    ids: dict[str, int] = {}
    for record, name in zip(images, names, strict=True):
        known = ids.setdefault(name, record["id"])
        if known != record["id"]:  # a record that is repeated as it is has a repeated id, which is another defect
            raise UserError(
                f"{path}: file_name {name!r} stands more than once, of images {known} and {record['id']}; each image "
                "needs its own file"
            )
    folders = {PurePosixPath(posixpath.dirname(name)) for name in ids}
    for folder in sorted({str(path) for inner in folders for path in (inner, *inner.parents)} & ids.keys()):
        inside = next(name for name in ids if name.startswith(f"{folder}/"))
        raise UserError(
            f"{path}: image {ids[folder]} has file_name {folder!r}, which is the folder of {inside!r} of image "
            f"{ids[inside]}; a path is a file or a folder: rename one"
        )
    return names


def _file_name(record: Any, path: Path) -> str:
    """The path of an image's file, in its shortest spelling."""
    name = record.get("file_name")
    whose = f"{path}: image {record['id']} has file_name {name!r}"
    if not isinstance(name, str) or leads_out(name) or _UNFIT.search(name):
        raise UserError(f"{whose}; expected a path inside its folder")
    short = posixpath.normpath(name)
    for part in short.split("/"):
        if part.startswith("."):
            raise UserError(
                f"{whose}, but names with a dot in front are of hidden files, which are not read; rename it"
            )
        if len(part.encode()) > _LONGEST:
            raise UserError(
                f"{whose}, of which a part has {len(part.encode())} bytes; file systems allow {_LONGEST}: rename it"
            )
    return short

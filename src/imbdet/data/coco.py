"""COCO annotation files as arrays: contiguous labels, xyxy boxes, crowd regions apart."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imbdet.data.schema import looks_like_text
from imbdet.data.table import Ints, Mask, Table, corners, has_area, read_table
from imbdet.errors import UserError
from imbdet.files import write_text

# What detection needs of an annotation file: without masks, a fifth.
KEPT = {
    "images": ("id", "file_name", "width", "height", "neg_category_ids", "not_exhaustive_category_ids"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "categories": ("id", "name", "frequency"),
}


@dataclass(frozen=True)
class Categories:
    """The K categories of a data set in the order of their labels: label 0 is the smallest category id.

    ids: [K] int64, ascending. names: K names.
    """

    ids: Ints
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def labels(self, category_ids: Ints) -> Ints:
        """Labels 0..K-1 of category ids, same shape; -1 for an id that is not a category."""
        position = np.minimum(np.searchsorted(self.ids, category_ids), len(self) - 1)
        return np.where(self.ids[position] == category_ids, position, -1)

    def category_ids(self, labels: Ints) -> Ints:
        """Category ids of labels 0..K-1, same shape."""
        return self.ids[labels]


@dataclass(frozen=True)
class Regions:
    """Boxes of all images in flat arrays, sorted by image and within an image in the order of the file.

    boxes: [G, 4] fp32 xyxy, pixels of the original image. labels: [G] int64, 0..K-1. ids: [G] int64, annotation ids.
    starts: [I + 1] int64, image i has rows starts[i] to starts[i + 1].
    """

    boxes: NDArray[np.float32]
    labels: Ints
    ids: Ints
    starts: Ints

    def __len__(self) -> int:
        return len(self.boxes)

    def rows(self, image: int) -> slice:
        """The rows of the image at position ``image``."""
        return slice(int(self.starts[image]), int(self.starts[image + 1]))

    @property
    def images(self) -> Ints:
        """[G] int64, position of each region's image."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


@dataclass(frozen=True)
class Annotations:
    """One split, images sorted by id.

    image_ids: [I] int64. file_names: I paths inside the split's folder. sizes: [I, 2] int64, height and width, pixels.
    """

    path: Path
    categories: Categories
    image_ids: Ints
    file_names: tuple[str, ...]
    sizes: Ints
    objects: Regions
    crowds: Regions


def parse_json(content: bytes, path: Path) -> Any:
    """Parse JSON that was read from ``path``. Raises :class:`UserError` where it is empty or not JSON."""
    advice = "restore it, or remove it and make it again"
    if not content.strip():
        raise UserError(f"{path} is empty; {advice}")
    try:
        return json.loads(content)
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        other = looks_like_text(content)
        hint = f"it looks like {other}" if other else advice
        raise UserError(f"{path} is not valid JSON ({error}); {hint}") from None
    except RecursionError:
        raise UserError(f"{path} nests too deeply to be a data file; {advice}") from None


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises :class:`UserError` where it is absent or not JSON."""
    try:
        return parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; `python -m imbdet data` with the study's config makes it") from None


def write_annotations(path: Path, content: Any, source: Path) -> Table:
    """Put annotations that came from ``source`` beside ``path``, for :mod:`imbdet.data.validate` to admit them to it.

    Only what detection needs is written. Raises :class:`UserError` for content of another form; see
    :func:`imbdet.data.table.read_table`.
    """
    table = read_table(content, source)
    table = replace(table, content=reduced(table.content))  # the masks, most of the file, may leave the memory
    marks = [[[row, *mark] for row, mark in found.items()] for found in (table.marks, table.image_marks)]
    write_text(_collected(path), as_text(table.content | {"source": str(source), "marks": marks}))
    return table


def read_collected(path: Path) -> Table:
    """Read what :func:`write_annotations` put beside ``path``; messages name its source."""
    content = read_json(_collected(path))
    source = Path(content.pop("source"))
    marks, image_marks = ({row: (key, value) for row, key, value in found} for found in content.pop("marks"))
    return replace(read_table(content, source), marks=marks, image_marks=image_marks)


def admit_annotations(path: Path, content: dict[str, Any]) -> None:
    """Write annotations without defects to ``path``, and remove what was put beside it."""
    text = as_text(content)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:  # a new date would make workflows start again
        write_text(path, text)
    _collected(path).unlink()


def _collected(path: Path) -> Path:
    return path.with_name(f".{path.stem}.collected.json")


def reduced(content: dict[str, Any]) -> dict[str, Any]:
    """The parts and keys of an annotation file that detection needs."""
    return {
        part: [{key: record[key] for key in keys if key in record} for record in content[part]]
        for part, keys in KEPT.items()
    }


def as_text(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":")) + "\n"


def read_annotations(path: Path) -> Annotations:
    """Read and check a prepared annotation file; see :func:`parse_annotations`."""
    return parse_annotations(read_json(path), path)


def parse_annotations(raw: Any, path: Path) -> Annotations:
    """Turn the content of the COCO annotation file ``path``, which has no defects, into arrays (boxes only).

    Raises :class:`UserError`, naming file, annotation and image, for what :func:`imbdet.data.table.read_table` refuses;
    for ids that are repeated or unknown; for boxes that are not four finite numbers or have no area.
    """
    table = read_table(raw, path)
    order = np.argsort(table.image_ids)
    by_id = np.argsort(table.category_ids)
    categories = Categories(table.category_ids[by_id], tuple(table.category_names[i] for i in by_id))
    labels = categories.labels(table.categories)
    _refuse_defects(table, labels)
    image_ids = table.image_ids[order]
    image = np.searchsorted(image_ids, table.images)
    boxes = corners(table.boxes).astype(np.float32)
    by_image = np.argsort(image, kind="stable")

    def select(keep: Mask) -> Regions:
        rows = by_image[keep[by_image]]
        starts = np.searchsorted(image[rows], np.arange(len(image_ids) + 1))
        return Regions(boxes[rows], labels[rows], table.ids[rows], starts)

    return Annotations(
        path=path,
        categories=categories,
        image_ids=image_ids,
        file_names=tuple(table.file_names[i] for i in order),
        sizes=table.sizes[order],
        objects=select(~table.crowd),
        crowds=select(table.crowd),
    )


def _refuse_defects(table: Table, labels: Ints) -> None:
    """Refuse what cannot be put into arrays; :mod:`imbdet.data.validate` tells and does more, and lets none through."""
    path = table.path
    for what, ids in (("image", table.image_ids), ("annotation", table.ids)):
        values, counts = np.unique(ids, return_counts=True)
        if (counts > 1).any():
            raise UserError(
                f"{path}: {what} id {values[np.argmax(counts)]} stands {counts.max()} times; ids must be unique"
            )
    for wrong, what, value in (
        (~table.known_image, "image", table.images),
        (labels < 0, "category", table.categories),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            raise UserError(f"{path}: annotation {table.ids[i]} names {what} {value[i]}, which the file does not list")
    wrong = ~has_area(table.boxes)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise UserError(
            f"{path}: {table.describe_box(i)}; expected [x, y, width, height], finite numbers in pixels, with area"
        )

"""COCO annotation files as arrays: contiguous labels, xyxy boxes, crowd regions apart."""

import json
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imbdet.data.archives import leads_out
from imbdet.errors import UserError
from imbdet.files import write_text

Ints = NDArray[np.int64]


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
    """Parse JSON that was read from ``path``. Raises :class:`UserError` where it is not JSON."""
    try:
        return json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it, or remove it and make it again") from None


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises :class:`UserError` where it is absent or not JSON."""
    try:
        return parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; `python -m imbdet data` with the study's config makes it") from None


def read_annotations(path: Path) -> Annotations:
    """Read and check a COCO annotation file; see :func:`parse_annotations`."""
    return parse_annotations(read_json(path), path)


def write_annotations(path: Path, content: Any, source: Path) -> Annotations:
    """Check annotations that came from ``source`` and write what detection needs of them: without masks, a fifth."""
    annotations = parse_annotations(content, source)
    kept = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
        "categories": ("id", "name"),
    }
    reduced = {
        part: [{key: record[key] for key in keys if key in record} for record in content[part]]
        for part, keys in kept.items()
    }
    text = json.dumps(reduced, separators=(",", ":")) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:  # a new date would make workflows start again
        write_text(path, text)
    return annotations


def parse_annotations(raw: Any, path: Path) -> Annotations:
    """Check the content of the COCO annotation file ``path`` and turn it into arrays (boxes only).

    Boxes without area, such as annotation 918 of COCO 2017, are dropped with a warning. Raises :class:`UserError`,
    naming file, annotation and image, for a file that is missing, not JSON or lacks keys; for ids that are repeated or
    unknown; for boxes that are not four finite numbers; for file names that lead out of the image folder.
    """
    images, image_ids = _sorted(_records(raw, "images", path), "image", path)
    categories, category_ids = _sorted(_records(raw, "categories", path), "category", path)
    records = _records(raw, "annotations", path)
    if not images or not categories:
        raise UserError(f"{path}: 'images' and 'categories' must not be empty")
    known = Categories(category_ids, tuple(str(record.get("name", record["id"])) for record in categories))
    sizes = np.stack([_column(images, key, "image", path) for key in ("height", "width")], axis=1)
    if (sizes < 1).any():
        i = int(np.argmin(sizes.min(axis=1)))
        raise UserError(f"{path}: image {image_ids[i]} has height and width {sizes[i].tolist()}; expected at least 1")
    objects, crowds = _regions(records, image_ids, known, path)
    return Annotations(path, known, image_ids, _file_names(images, path), sizes, objects, crowds)


def _regions(records: list[Any], image_ids: Ints, categories: Categories, path: Path) -> tuple[Regions, Regions]:
    """Objects and crowd regions of all images."""
    ids = _unique(_column(records, "id", "annotation", path), "annotation", path)
    image_id = _column(records, "image_id", "annotation", path)
    category_id = _column(records, "category_id", "annotation", path)
    image = np.minimum(np.searchsorted(image_ids, image_id), len(image_ids) - 1)
    labels = categories.labels(category_id)
    for wrong, what, value in (
        (image_ids[image] != image_id, "image", image_id),
        (labels < 0, "category", category_id),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            raise UserError(f"{path}: annotation {ids[i]} names {what} {value[i]}, which the file does not list")
    boxes = _boxes(records, ids, image_id, path)
    crowd = np.array([bool(record.get("iscrowd", 0)) for record in records], dtype=bool)
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if not solid.all():
        i = int(np.argmin(solid))
        warnings.warn(
            f"{path}: dropped {(~solid).sum()} boxes without area, first annotation {ids[i]} of image {image_id[i]}",
            stacklevel=3,
        )
    order = np.argsort(image, kind="stable")

    def select(keep: NDArray[np.bool_]) -> Regions:
        rows = order[keep[order]]
        starts = np.searchsorted(image[rows], np.arange(len(image_ids) + 1))
        return Regions(boxes[rows].astype(np.float32), labels[rows], ids[rows], starts)

    return select(solid & ~crowd), select(solid & crowd)


def _boxes(records: list[Any], ids: Ints, image_ids: Ints, path: Path) -> NDArray[np.float64]:
    """Boxes [n, 4] xyxy, from xywh; every value finite."""
    raw = [record.get("bbox") for record in records]
    boxes = np.array([box if _is_box(box) else [np.nan] * 4 for box in raw], dtype=np.float64).reshape(len(raw), 4)
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        i = int(np.argmin(finite))
        raise UserError(
            f"{path}: annotation {ids[i]} of image {image_ids[i]} has bbox {raw[i]!r}; "
            "expected [x, y, width, height], four finite numbers in pixels"
        )
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(number, (int, float)) for number in value)


def _records(raw: Any, key: str, path: Path) -> list[Any]:
    records = raw.get(key) if isinstance(raw, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path} is no COCO annotation file: it needs a list of records under {key!r}")
    return records


def _sorted(records: list[Any], what: str, path: Path) -> tuple[list[Any], Ints]:
    """Records by ascending id, and their ids."""
    ids = _unique(_column(records, "id", what, path), what, path)
    order = np.argsort(ids)
    return [records[i] for i in order], ids[order]


def _column(records: list[Any], key: str, what: str, path: Path) -> Ints:
    """An integer of each record, [n] int64."""
    values = [record.get(key) for record in records]
    for record, value in zip(records, values, strict=True):
        if not isinstance(value, int):
            name = f"{what} {record['id']}" if key != "id" and "id" in record else f"{what} {str(record)[:80]}"
            raise UserError(f"{path}: {name} has {key} {value!r}; expected an integer")
    return np.array(values, dtype=np.int64)


def _unique(ids: Ints, what: str, path: Path) -> Ints:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"{path}: {what} id {values[np.argmax(counts)]} stands {counts.max()} times; ids must be unique"
        )
    return ids


def _file_names(images: list[Any], path: Path) -> tuple[str, ...]:
    names = tuple(record.get("file_name") for record in images)
    for record, name in zip(images, names, strict=True):
        if not isinstance(name, str) or leads_out(name):
            raise UserError(f"{path}: image {record['id']} has file_name {name!r}; expected a path inside its folder")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: file_name {repeated[0]!r} stands more than once; each image needs its own file")
    return names

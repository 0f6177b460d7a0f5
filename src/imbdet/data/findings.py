"""Defects that an annotation file shows by itself, over all annotations at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imbdet.data.federated import LISTS
from imbdet.data.table import Ints, Mask, Table, corners, has_area
from imbdet.settings import Rules, Validation

EXACT = 1e-5  # pixels: what sums of floats may be off by


@dataclass(frozen=True)
class Finding:
    """What has a defect.

    rows: [m] int64, ascending rows of the table's images or annotations. ids: [m] int64, theirs, or category ids.
    first: what is wrong with the first, as a clause for people.
    """

    rows: Ints
    ids: Ints
    first: str


Findings = dict[str, Finding]


def find(table: Table, policy: Validation, rules: Rules) -> Findings:
    """Return all defects of a table by their names in :class:`imbdet.settings.Validation`; empty where there is none.

    Args:
        policy: how many pixels a box may reach out of its image through rounding, and what is left out.
        rules: by which detections are evaluated; those of LVIS read LVIS's keys, which are a defect otherwise.
    """
    federated = _of_lvis_keys(table) if rules != "lvis" else {}
    images = {**_of_image_ids(table), **_of_image_marks(table)}
    return {**_of_categories(table), **images, **_of_annotations(table), **_of_boxes(table, policy), **federated}


def clipped(table: Table) -> NDArray[np.float64]:
    """[n, 4] boxes (x y width height), cut at the borders of their images and rounded to a millionth of a pixel."""
    size = table.sizes[table.image_rows][:, ::-1]
    cut = np.clip(corners(table.boxes), 0, np.tile(size, 2))
    return np.concatenate([cut[:, :2], cut[:, 2:] - cut[:, :2]], axis=1).round(6)


def _of_categories(table: Table) -> Findings:
    ids = np.unique(table.category_ids)
    gaps = np.flatnonzero(np.diff(ids) > 1)
    first = f"no category has id {ids[gaps[0]] + 1}, but others have {ids[0]} to {ids[-1]}" if len(gaps) else ""
    return {"category_gaps": Finding(gaps, ids[gaps] + 1, first)}


def _of_image_ids(table: Table) -> Findings:
    _, inverse, counts = np.unique(table.image_ids, return_inverse=True, return_counts=True)
    rows, ids = np.flatnonzero(counts[inverse] > 1), table.image_ids

    def describe(row: int) -> str:
        return f"image id {ids[row]} stands {counts[inverse[row]]} times; ids must be unique"

    return {"duplicate_image_ids": _of_rows(ids, rows, describe)}


def _of_image_marks(table: Table) -> Findings:
    rows, ids = np.array(sorted(table.image_marks), dtype=np.int64), table.image_ids
    return {"marked_images": _of_rows(ids, rows, lambda i: f"image {ids[i]} {_has_mark(*table.image_marks[i])}")}


def _of_lvis_keys(table: Table) -> Findings:
    images = table.content["images"]
    rows = np.array([row for row, image in enumerate(images) if any(key in image for key in LISTS)], dtype=np.int64)
    ids, why = table.image_ids, "which COCO's rules do not read; data.source lvis_format has LVIS's rules"
    return {"lvis_keys": _of_rows(ids, rows, lambda i: f"image {ids[i]} has LVIS's lists of categories, {why}")}


def _of_annotations(table: Table) -> Findings:
    """Ids, references, crowds and marks."""
    ids, images, categories = table.ids, table.images, table.categories
    return {
        "duplicate_annotation_ids": _finding(
            table, ~_is_first([ids]), lambda i: f"annotation id {ids[i]} stands {(ids == ids[i]).sum()} times"
        ),
        "unknown_image": _finding(
            table,
            ~table.known_image,
            lambda i: f"annotation {ids[i]} names image {images[i]}, which the file does not list",
        ),
        "unknown_category": _finding(
            table,
            ~np.isin(categories, table.category_ids),
            lambda i: f"annotation {ids[i]} names category {categories[i]}, which the file does not list",
        ),
        "crowds": _finding(table, table.crowd, partial(describe_ignored, table)),
        "marked": _finding(table, table.marked, partial(describe_ignored, table)),
    }


def describe_ignored(table: Table, row: int) -> str:
    """Say for people why an annotation, which is a crowd or marked, is no object."""
    why = "is a crowd" if table.crowd[row] else _has_mark(*table.marks[row])
    return f"annotation {table.ids[row]} of image {table.images[row]} {why}"


def _has_mark(key: str, value: Any) -> str:
    return f"has {key} {value!r:.80}, by which other programs leave it out"


def _of_boxes(table: Table, policy: Validation) -> Findings:
    """Numbers that are none, sizes, places and repetitions; of sizes and places a box has one defect at most."""
    boxes, areas = table.boxes, table.areas
    finite = np.isfinite(boxes).all(axis=1)
    negative = (boxes[:, 2:] < 0).any(axis=1)
    sized = finite & ~negative & has_area(boxes)
    located = sized & table.known_image
    inside = clipped(table)
    reach = np.abs(corners(boxes) - corners(inside)).max(axis=1, initial=0)
    seen = (reach <= EXACT) | has_area(inside)
    out = located & seen & (reach > EXACT)
    numeric = finite & np.isfinite(areas)
    # A good annotation is no repetition of one that is left out for another defect.
    area_counts = (areas > 0) | (policy.zero_area != "drop")
    fate = [table.crowd, table.marked, numeric, area_counts, _is_first([table.ids])]
    repeated = finite & ~_is_first([table.images, table.categories, *fate, *boxes.T])
    reaches = ", which reaches out of the image's {width} x {height} pixels"
    described = {
        "negative_size": (finite & negative, "; sizes must not be negative"),
        "zero_size": (finite & ~negative & ~sized, ", which has no width or height"),
        "outside": (located & ~seen, ", outside the image's {width} x {height} pixels"),
        "reaching_out": (out & (reach >= policy.rounding), reaches),
        "rounded_out": (out & (reach < policy.rounding), reaches),
        "duplicate_boxes": (repeated, ", as an earlier annotation of the same category has"),
    }

    def box(row: int, fault: str) -> str:
        height, width = table.sizes[table.image_rows[row]]
        return table.describe_box(row) + fault.format(width=width, height=height)

    def numbers(row: int) -> str:
        area = table.content["annotations"][row].get("area")
        return f"{table.describe_box(row)} and area {area!r}; expected [x, y, width, height] of finite numbers"

    return {
        "non_finite": _finding(table, ~numeric, numbers),
        "zero_area": _finding(
            table, sized & (areas <= 0), lambda i: f"annotation {table.ids[i]} has area {areas[i]}, but its box has one"
        ),
        **{name: _finding(table, mask, partial(box, fault=fault)) for name, (mask, fault) in described.items()},
    }


def _finding(table: Table, mask: Mask, describe: Callable[[int], str]) -> Finding:
    return _of_rows(table.ids, np.flatnonzero(mask), describe)


def _of_rows(ids: Ints, rows: Ints, describe: Callable[[int], str]) -> Finding:
    """The finding of some rows of the images or annotations that have these ids."""
    return Finding(rows, ids[rows], describe(int(rows[0])) if len(rows) else "")


def _is_first(columns: list[NDArray[np.generic]]) -> Mask:
    """[n] whether a row, made of one value a column, is the first of those that are equal to it."""
    order = np.lexsort(columns)  # stable: equal rows stay in their order
    new = np.ones(len(order), dtype=bool)
    changes = [column[order][1:] != column[order][:-1] for column in columns]
    new[1:] = np.logical_or.reduce(changes)
    first: Mask = np.empty(len(order), dtype=bool)
    first[order] = new
    return first

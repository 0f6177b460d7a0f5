"""Detections matched with ground truth by faster-coco-eval's compiled core, straight from flat arrays.

The numbers are those of pycocotools, whose rules the core follows; precision is TP / (TP + FP), to whose denominator
pycocotools adds 2e-16. The library's own class differs in three cases, which cannot come up here:

- It drops detections of categories that the annotations lack. Here they are refused.
- It takes a match with the box of id 0 for none, as pycocotools does. Here boxes are numbered from 1.
- It holds ids as floating-point numbers, of which those from 2^53 coincide. Here ids become positions.

IoUs come from pycocotools itself, so that a box at exactly a threshold falls on the same side of it, and detections are
sorted stably, so that of equal scores the first in the arrays comes first. The core is given one class at a time, with
only the images that hold a box or a detection of it: the grid of all images and classes of LVIS needs too much memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from faster_coco_eval import faster_eval_api_cpp as core  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pycocotools import mask
from pycocotools.cocoeval import Params

from imbdet.errors import UserError
from imbdet.evaluation.detections import Detections

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_DEFAULTS = Params(iouType="bbox")
IOUS: Floats = _DEFAULTS.iouThrs
RECALLS: Floats = _DEFAULTS.recThrs
AREAS = _DEFAULTS.areaRng  # [smallest, largest] in square pixels, both included: all, small, medium, large
_REMEDY = {
    "detections": "they belong to other data: run the `detect` command again",
    "annotations": "restore the file, or remove it and run the `data` command again",
}


@dataclass(frozen=True)
class _Rows:
    """n boxes, sorted by class and then image.

    image: [n] int64, position among the image ids in ascending order. label: [n] int64, 0..K-1 in that of the category
    ids. bbox: [n, 4] float64 xywh, pixels.
    """

    image: Ints
    label: Ints
    bbox: Floats

    @property
    def group(self) -> Ints:
        """[n] a number for each class and image, ascending."""
        return self.label * (1 << 32) + self.image

    def select(self, rows: NDArray[Any] | slice) -> Self:
        """The rows of a mask or a slice."""
        return type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class Boxes(_Rows):
    """Ground truth, within an image and class in the order of the file. area: [n] float64. crowd: [n] bool."""

    area: Floats
    crowd: NDArray[np.bool_]

    @classmethod
    def of(cls, truth: dict[str, Any]) -> "Boxes":
        """The boxes of a COCO annotation file's content, with the area and crowd flag that it states, if it does."""
        annotations = truth["annotations"]
        image = positions("image", [a["image_id"] for a in annotations], truth, "annotations")
        label = positions("category", [a["category_id"] for a in annotations], truth, "annotations")
        bbox = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
        plain = (bbox[:, 2] * bbox[:, 3]).tolist()
        area = np.array([a.get("area", own) for a, own in zip(annotations, plain, strict=True)], np.float64)
        crowd = np.array([a.get("iscrowd", 0) for a in annotations], np.bool_)
        return cls(image, label, bbox, area, crowd).select(np.lexsort((image, label)))

    def dataset(self) -> core.Dataset:
        """The boxes of one class as the core wants them."""
        own = core.Dataset()
        columns = (self.image.tolist(), self.area.tolist(), self.crowd.tolist())
        for number, (image, area, crowd) in enumerate(zip(*columns, strict=True), start=1):
            own.append_ref(image, 0, {"id": number, "area": area, "iscrowd": crowd, "ignore": crowd})
        return own


@dataclass(frozen=True)
class Found(_Rows):
    """Detections, within an image and class from the highest score down.

    score: [n] float64. pardoned: [n] bool, True where the detection does not count as false if it takes no box.
    """

    score: Floats
    pardoned: NDArray[np.bool_]

    @classmethod
    def of(cls, detections: Detections, truth: dict[str, Any]) -> "Found":
        """Detections, none pardoned. Raises UserError for an image or category that the annotations lack."""
        image = positions("image", detections.image_id, truth, "detections")
        label = positions("category", detections.category_id, truth, "detections")
        bbox, score = detections.bbox.astype(np.float64), detections.score.astype(np.float64)
        return cls(image, label, bbox, score, np.zeros(len(score), np.bool_)).select(np.lexsort((-score, image, label)))

    @property
    def rank(self) -> Ints:
        """[n] place of each within its image and class, 0 for the highest score."""
        group = self.group
        return np.arange(len(group)) - np.searchsorted(group, group)

    def dataset(self) -> core.Dataset:
        """The detections of one class as the core wants them."""
        own = core.Dataset()
        areas = self.bbox[:, 2] * self.bbox[:, 3]
        columns = (self.image.tolist(), areas.tolist(), self.score.tolist(), self.pardoned.tolist())
        for number, (image, area, score, pardoned) in enumerate(zip(*columns, strict=True), start=1):
            own.append_ref(image, 0, {"id": number, "area": area, "score": score, "lvis_mark": pardoned})
        return own


def positions(kind: str, ids: Sequence[int] | Ints, truth: dict[str, Any], owner: str) -> Ints:
    """Positions of ids among those of the file's images or categories, ascending; [n] int64.

    kind: "image" or "category". owner: what the ids stand in, "detections" or "annotations". Raises UserError for an id
    that is not in the file.
    """
    entries = truth["images" if kind == "image" else "categories"]
    known = np.sort(np.array([entry["id"] for entry in entries], np.int64))
    wanted = np.asarray(ids, np.int64)
    unknown = np.setdiff1d(wanted, known)
    if len(unknown):
        some = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise UserError(
            f"{owner} name {kind} id {some}, not in the annotations ({len(entries)} {kind} entries, unknown ids: "
            f"{len(unknown)}); {_REMEDY[owner]}"
        )
    return np.searchsorted(known, wanted)


def curves(
    truth: Boxes, found: Found, classes: int, areas: Sequence[Sequence[float]] = AREAS[:1], limit: int = 100
) -> tuple[Floats, Floats]:
    """Precision [T, R, K, A] at the recalls of :data:`RECALLS` and largest recall [T, K, A]; -1 for no boxes.

    T IoU thresholds (:data:`IOUS`), R recalls, K classes, A ranges of area. At most ``limit`` detections count of an
    image and class.
    """
    results = [_evaluate(*parts, IOUS, areas, limit) for parts in _by_class(truth, found, classes)]
    precision = np.concatenate([result["precision"][..., 0] for result in results], axis=2)
    return precision, np.concatenate([result["recall"][..., 0] for result in results], axis=1)


def matched(truth: Boxes, found: Found, classes: int, iou: float, limit: int = 100) -> NDArray[np.bool_]:
    """Which detections take a box at one IoU threshold, [n] bool in the order of ``found``; none beyond ``limit``."""
    taken = np.zeros(len(found.score), bool)
    start = 0
    for boxes, own in _by_class(truth, found, classes):
        result = _evaluate(boxes, own, np.array([iou]), AREAS[:1], limit)
        taken[[start + int(pair.split("_")[0]) - 1 for pair in result["matched"]]] = True
        start += len(own.score)
    return taken


def _by_class(truth: Boxes, found: Found, classes: int) -> Iterator[tuple[Boxes, Found]]:
    g, d = (np.searchsorted(side.label, np.arange(classes + 1)).tolist() for side in (truth, found))
    for k in range(classes):
        yield truth.select(slice(g[k], g[k + 1])), found.select(slice(d[k], d[k + 1]))


def _evaluate(truth: Boxes, found: Found, ious: Floats, areas: Sequence[Sequence[float]], limit: int) -> dict[str, Any]:
    """What the core says of one class: "precision" [T, R, 1, A, 1], "recall" [T, 1, A, 1], "matched" {"d_g": IoU}."""
    images = np.union1d(truth.image, found.image)
    params = Params(iouType="bbox")
    params.iouThrs, params.areaRng, params.maxDets = ious, list(areas), [limit]
    params.imgIds, params.catIds = images.tolist(), [0]
    overlaps = _overlaps(truth, found, images, limit)
    result: dict[str, Any] = core.COCOevalEvaluateAccumulate(
        params, overlaps, truth.dataset(), found.dataset(), params.imgIds, params.catIds, True
    )
    return result


def _overlaps(truth: Boxes, found: Found, images: Ints, limit: int) -> list[list[list[list[float]]]]:
    """IoU of each detection and box of an image, for each image, in the nesting that the core wants."""
    edges = [
        np.searchsorted(side.image, images, where).tolist() for side in (truth, found) for where in ("left", "right")
    ]
    return [
        [mask.iou(found.bbox[d:d_end][:limit], truth.bbox[g:g_end], truth.crowd[g:g_end]).tolist()]
        if g < g_end and d < d_end
        else [[]]
        for g, g_end, d, d_end in zip(*edges, strict=True)
    ]

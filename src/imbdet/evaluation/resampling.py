"""AP of many resamples of the images at once, from detections that are matched with the ground truth a single time.

A match does not depend on other images, so that AP of a data set in which image i stands w_i times follows from the
matches: sums over detections become sums weighted by w. All of COCO's rules hold, so that weights of 1 give the AP of
pycocotools, and a weight of 2 that of a data set which holds the image twice.

Only precision at the detections that take a box matters: between two of them it falls. So the counts of all detections
are needed at those places alone, which makes the work a fraction of that of a curve for each resample.

The matching is this module's own. The compiled core of :mod:`imbdet.evaluation.matching` gives the matches of one
threshold at a time, and not which of them are with a crowd; for all ten it takes thirty times as long as all of this,
longer than the resampling itself. Tests hold both to pycocotools.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imbdet.evaluation.detections import Detections
from imbdet.evaluation.matching import IOUS, RECALLS, Boxes, Floats, Found, Ints

Bools = NDArray[np.bool_]
Counts = NDArray[np.float32]
AT_ONCE = 100  # resamples whose counts of one class are held at a time, to stay in a processor's cache


@dataclass(frozen=True)
class ClassMatches:
    """One class: its n detections from the highest score down, matched at each of T IoU thresholds.

    image: [n] int64, position of the image. taken: [T, n], whether it takes a box. ignored: [T, n], whether it counts
    neither as true nor as false, as it lies on a crowd. boxes: [I] int64, number of boxes of each image.
    """

    image: Ints
    taken: Bools
    ignored: Bools
    boxes: Ints


def match(truth: dict[str, Any], detections: Detections, limit: int = 100) -> list[ClassMatches]:
    """Match detections with the boxes of a COCO annotation file's content, for each class by ascending category id.

    At most ``limit`` detections count of an image and class. Raises UserError for an image or category that the
    annotations lack.
    """
    boxes, found = Boxes.of(truth), Found.of(detections, truth)
    images, classes = len(truth["images"]), len(truth["categories"])
    found = found.select(found.rank < limit)
    taken, ignored = _match(boxes, found)
    result = []
    for k in range(classes):
        rows = np.flatnonzero(found.label == k)
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        own = boxes.image[(boxes.label == k) & ~boxes.crowd]
        result.append(
            ClassMatches(found.image[rows], taken[:, rows], ignored[:, rows], np.bincount(own, minlength=images))
        )
    return result


def _match(boxes: Boxes, found: Found) -> tuple[Bools, Bools]:
    """COCO's greedy matching at all thresholds: [T, n] whether a detection takes a box, and whether it lies on a crowd.

    Detections of an image and class choose in the order of their scores, each the box of highest IoU that is left; of
    equal ones the last. All that are first in their image choose at once, then all second ones, and so on.
    """
    d, g, iou = _pairs(boxes, found)
    rank = found.rank[d]
    taken, ignored = np.zeros((2, len(IOUS), len(found.score)), bool)
    free = np.ones((len(IOUS), len(boxes.area)), bool)
    least = np.minimum(IOUS, 1 - 1e-10)[:, None]
    for place in np.unique(rank):
        pairs = np.flatnonzero(rank == place)
        for crowd in (False, True):  # a crowd is for those that find no box, and for any number of them
            own = pairs[boxes.crowd[g[pairs]] == crowd]
            if not len(own):
                continue
            start = np.flatnonzero(np.diff(d[own], prepend=-1))
            usable = (iou[own] >= least) & (crowd | free[:, g[own]])
            best = np.maximum.reduceat(np.where(usable, iou[own], -1.0), start, axis=1)
            chooser = d[own[start]]
            chosen = best > 0
            if crowd:
                ignored[:, chooser] = chosen & ~taken[:, chooser]
                continue
            taken[:, chooser] = chosen
            # Of equal IoUs the last: the highest place in the list of pairs.
            equal = usable & (iou[own] == np.repeat(best, np.diff(start, append=len(own)), axis=1))
            last = np.maximum.reduceat(np.where(equal, np.arange(len(own)), -1), start, axis=1)
            t, column = np.nonzero(chosen)
            free[t, g[own[last[t, column]]]] = False
    return taken, ignored


def _pairs(boxes: Boxes, found: Found) -> tuple[Ints, Ints, Floats]:
    """Detection, box and IoU of all pairs of one image and class whose IoU reaches the lowest threshold."""
    of_box, of_found = boxes.group, found.group
    first, end = (np.searchsorted(of_box, of_found, side) for side in ("left", "right"))
    number = end - first
    d = np.repeat(np.arange(len(of_found)), number)
    g = np.repeat(first - np.cumsum(number) + number, number) + np.arange(len(d))
    a, b = found.bbox[d], boxes.bbox[g]
    sides = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    inside = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    own = a[:, 2:].prod(axis=1)
    union = np.where(boxes.crowd[g], own, own + b[:, 2:].prod(axis=1) - inside)
    iou = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    keep = iou >= IOUS[0]
    return d[keep], g[keep], iou[keep]


def resampled_ap(matches: list[ClassMatches], weights: NDArray[np.int64]) -> Floats:
    """AP at each IoU threshold of every resample.

    Args:
        matches: of each class.
        weights: [R, I] how often each image stands in a resample.

    Returns:
        [R, T] float64, the mean over the classes that have boxes in the resample; NaN where none has.
    """
    # Counts are exact in fp32 up to 2^24; images are rows, so that those of a detection are one stretch of memory.
    parts = [
        np.ascontiguousarray(part.T, np.float32) for part in np.split(weights, range(AT_ONCE, len(weights), AT_ONCE))
    ]
    boxes = [np.stack([one.boxes for one in matches]).astype(np.float32) @ part for part in parts]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # the cores that this process may use
        jobs = [
            [pool.submit(_class_ap, one, part, own) for one, own in zip(matches, of_class, strict=True)]
            for part, of_class in zip(parts, boxes, strict=True)
        ]
        total = np.concatenate([sum(job.result() for job in of_part) for of_part in jobs])
    known = np.concatenate([(own > 0).sum(axis=0) for own in boxes])[:, None]
    ap: Floats = np.divide(total, known, out=np.full_like(total, np.nan), where=known > 0)
    return ap


def _class_ap(one: ClassMatches, by_image: Counts, boxes: Counts) -> Floats:
    """[R, T] AP of one class, 0 without boxes. by_image: [I, R] weights; boxes: [R] weighted number of boxes."""
    result = np.zeros((len(boxes), len(IOUS)))
    places = np.flatnonzero(one.taken.any(axis=0))
    if not len(places):
        return result
    starts = np.concatenate([[0], places[:-1] + 1])
    every = np.add.reduceat(by_image[one.image[: places[-1] + 1]], starts, axis=0).cumsum(axis=0)
    weights = by_image[one.image[places]]
    for t, (taken, ignored) in enumerate(zip(one.taken, one.ignored, strict=True)):
        here = np.flatnonzero(taken[places])
        counted = every[here]
        skipped = np.flatnonzero(ignored)
        if len(skipped):
            sums = by_image[one.image[skipped]].cumsum(axis=0)
            before = np.searchsorted(skipped, places[here])
            counted[before > 0] -= sums[before[before > 0] - 1]
        result[:, t] = _area(weights[here].cumsum(axis=0), counted, boxes)
    return result


def _area(true: Counts, counted: Counts, boxes: Counts) -> Floats:
    """[R] mean precision at COCO's recalls. true, counted: [n, R] at each true detection; boxes: [R]."""
    precision = np.divide(true, np.maximum(counted, 1, out=counted), dtype=np.float64)[::-1]
    np.maximum.accumulate(precision, axis=0, out=precision)
    recall = np.divide(true, np.maximum(boxes, 1), dtype=np.float64)
    # How many of the recalls 0, .01, .02, ... each place has reached: the nearest one's number, or that plus 1.
    reached = np.rint(recall * 100)
    reached += reached * 0.01 <= recall
    reached[1:] -= reached[:-1].copy()
    area: Floats = np.einsum("nr,nr->r", precision[::-1], reached) / len(RECALLS) * (boxes > 0)
    return area

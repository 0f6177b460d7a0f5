"""AP at IoU .5 by the rules of PASCAL VOC, as ``VOCevaldet.m`` of its development kit has them.

Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010, section 4.2.
What differs from COCO:

- A detection belongs to the box of its class with the largest IoU, taken or not: of several detections of a box the
  one with the highest score is right, the others are wrong, even if another box is free.
- Objects marked ``difficult``, regions to ignore after the preparation, are no boxes to find. Detections that belong to
  one, as many as there are, are neither right nor wrong. IoU is the same for them as for others, unlike COCO's crowds.
- There is no limit on the detections of an image.
- AP is the mean of the interpolated precision at the recalls 0, .1, ..., 1 (VOC 2007), or the whole area under it (from
  VOC 2010 on).

The kit compares recalls with 0:0.1:1 in floating point, where 3 of 10 boxes may miss .3; here the comparison is exact.
Of equal scores the image of smaller id comes first, and within it the first in the arrays. The kit counts pixels from 1
and both corners as inside; IoU is the same number either way.
"""

from typing import Any

import numpy as np

from imbdet.evaluation.averages import mean
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.matching import Boxes, Floats, Found, Ints, Mask

IOU = 0.5
RECALLS = 11
NAMES = ("VOC_AP", "VOC_AP11")  # the whole area; 11 recalls


def evaluate(truth: dict[str, Any], detections: Detections) -> tuple[dict[str, float | None], list[dict[str, Any]]]:
    """Compare detections with ground truth.

    Args:
        truth: content of a COCO annotation file, whose crowd regions are the objects marked ``difficult``.
        detections: of its images.

    Returns:
        ``VOC_AP`` and ``VOC_AP11``: the mean over the classes that have boxes, and for each class, in the order of the
        category ids; from 0 to 1, None where there is no box.

    Raises:
        UserError: detections of an image or category that the annotations lack.
    """
    classes = len(truth["categories"])
    values = average_precisions(Boxes.of(truth), Found.of(detections, truth), classes)
    means = dict(zip(NAMES, map(mean, values), strict=True))
    rows = [dict(zip(NAMES, map(mean, pair), strict=True)) for pair in np.stack(values, axis=1)[..., None]]
    return means, rows


def average_precisions(boxes: Boxes, found: Found, classes: int) -> tuple[Floats, Floats]:
    """AP of each class over the whole area and at 11 recalls, each [K] float64; -1 for a class without boxes."""
    iou, box = _nearest(boxes, found)
    belongs = iou >= IOU
    ignored = belongs.copy()
    ignored[belongs] = boxes.crowd[box[belongs]]
    rows = np.flatnonzero(belongs & ~ignored)
    right = np.zeros(len(iou), bool)
    right[rows[np.unique(box[rows], return_index=True)[1]]] = True  # within an image, scores fall
    order = np.lexsort((-found.score, found.label))
    order = order[~ignored[order]]
    ends = np.searchsorted(found.label[order], np.arange(classes + 1))
    counts = np.bincount(boxes.label[~boxes.crowd], minlength=classes)
    areas = [_areas(right[order[ends[k] : ends[k + 1]]], int(counts[k])) for k in range(classes)]
    whole, sampled = np.array(areas, np.float64).reshape(-1, 2).T
    return whole, sampled


def _nearest(boxes: Boxes, found: Found) -> tuple[Floats, Ints]:
    """The largest IoU of each detection with a box of its image and class, 0 without any, and that box's row."""
    start, end = (np.searchsorted(boxes.group, found.group, side) for side in ("left", "right"))
    count = end - start
    detection = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(detection)) + np.repeat(start - (np.cumsum(count) - count), count)
    iou = _iou(found.bbox[detection], boxes.bbox[row])
    order = np.lexsort((row, -iou, detection))  # of equal IoUs the first box
    _, first = np.unique(detection[order], return_index=True)
    best = order[first]
    largest, box = np.zeros(len(count)), np.zeros(len(count), np.int64)
    largest[detection[best]], box[detection[best]] = iou[best], row[best]
    return largest, box


def _iou(a: Floats, b: Floats) -> Floats:
    """IoU of n pairs of boxes, xywh; [n]."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    iou: Floats = shared / (a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - shared)
    return iou


def _areas(right: Mask, boxes: int) -> tuple[float, float]:
    """AP over the whole area and at 11 recalls, of a class's detections from the highest score down."""
    if not boxes:
        return -1.0, -1.0
    true = np.cumsum(right)
    precision = true / np.arange(1, len(true) + 1)
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(true * (RECALLS - 1), np.arange(RECALLS) * boxes)
    sampled = np.append(interpolated, 0.0)[reached]
    return float(interpolated[right].sum() / boxes), float(sampled.mean())

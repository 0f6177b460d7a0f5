"""Which rows hard example mining selects, as loops over images, boxes and rows.

Shrivastava et al., CVPR 2016, section 4.1; Lin et al., Focal Loss, ICCV 2017, section 5.1; Liu et al., SSD, ECCV 2016,
section 2.2. ``batch`` holds numpy arrays by the names of Samples; losses are those of focal_reference.
"""

import itertools
import math


def iou(a, b):
    width, height = (min(a[axis + 2], b[axis + 2]) - max(a[axis], b[axis]) for axis in (0, 1))
    inside = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return inside / (areas - inside)


def nms(batch, losses, rows, threshold):
    """The rows that are left, hardest first: each time the hardest, then without all that overlap it."""
    rest, left = sorted(rows, key=lambda row: -losses[row]), []
    while rest:
        hardest, *rest = rest
        left.append(hardest)
        if threshold is not None:
            boxes = batch["priors"]
            rest = [row for row in rest if iou(boxes[hardest].tolist(), boxes[row].tolist()) <= threshold]
    return left


def rows_where(batch, image=None, label=None):
    """Rows that are not ignored, of an image and a label or of all."""
    rows = enumerate(zip(batch["image_id"], batch["label"], strict=True))
    return [row for row, (i, y) in rows if y >= 0 and image in (None, i) and label in (None, y)]


def ohem(batch, losses, variant, per_image, threshold):
    """The rows of the mini-batch: of each image by the paper's text, hardest first; of all together by its code."""
    left = [[] for _ in range(batch["num_images"])]
    for image in range(batch["num_images"]):
        labels = [None] if variant == "paper" else range(batch["num_classes"] + 1)
        for label in labels:
            left[image] += nms(batch, losses, rows_where(batch, image, label), threshold)
    if variant == "paper":
        return [row for rows in left for row in rows[:per_image]]
    pooled = sorted(itertools.chain(*left), key=lambda row: -losses[row])
    return pooled[: per_image * batch["num_images"]]


def ohem_dense(batch, losses, per_image, threshold, one_to_three):
    """The anchors of the mini-batch, of all images."""
    chosen = []
    for image in range(batch["num_images"]):
        left = nms(batch, losses, rows_where(batch, image), threshold)
        if one_to_three:
            positives = [row for row in left if batch["label"][row] < batch["num_classes"]][: per_image // 4]
            negatives = [row for row in left if batch["label"][row] == batch["num_classes"]]
            chosen += positives + negatives[: 3 * len(positives)]
        else:
            chosen += left[:per_image]
    return sorted(chosen)


def ssd(batch, losses, ratio):
    """All positives, and of each image the negatives of highest loss, ``ratio`` for each of its positives."""
    chosen = []
    for image in range(batch["num_images"]):
        negatives = rows_where(batch, image, batch["num_classes"])
        positives = [row for row in rows_where(batch, image) if row not in negatives]
        hardest = sorted(negatives, key=lambda row: -losses[row])
        chosen += positives + hardest[: math.floor(ratio * len(positives))]
    return sorted(chosen)


def only(batch, rows):
    """The same batch with all other rows ignored."""
    label = [y if row in rows else -1 for row, y in enumerate(batch["label"])]
    return batch | {"label": label}

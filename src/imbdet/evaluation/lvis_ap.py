"""AP and AR by the rules of LVIS, whose images are labelled for a part of the categories each (a federated data set).

Gupta, Dollar, Girshick, LVIS: A Dataset for Large Vocabulary Instance Segmentation, CVPR 2019, section 3. What differs
from COCO, as in the LVIS API (github.com/lvis-dataset/lvis-api, ``lvis/eval.py`` and ``lvis/results.py``):

- The limit on detections, 300, is of an image over *all* categories.
- Detections of a category on an image that neither holds it nor is known to be without it (``neg_category_ids``) are
  left out: nobody has looked.
- On images whose labels of a category are incomplete (``not_exhaustive_category_ids``), its unmatched detections do
  not count as false.
- There are no crowd regions.
- AP also by how many training images hold a category (``frequency``): r up to 10, c up to 100, f above.

The fixtures of the tests hold numbers of the LVIS API itself. Keys that COCO's records have as well are there, by these
rules: AR_1, AR_10 and AR_100 keep that many detections of an image, over all categories.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from imbdet.data.federated import GROUPS, lacking
from imbdet.errors import UserError
from imbdet.evaluation.averages import (
    COUNT_IOUS,
    Evaluation,
    averages,
    curve_table,
    mean,
    operating_row,
    per_class,
    threshold,
)
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.matching import AREAS, IOUS, Boxes, Found, Ints, curves, matched, positions

LIMIT = 300
AR_LIMITS = (1, 10, 100)


def evaluate(truth: dict[str, Any], detections: Detections, operating_score: float) -> Evaluation:
    """Compare detections with ground truth; see :func:`imbdet.evaluation.coco_ap.evaluate`, whose keys are all here.

    truth: content of a LVIS annotation file; never modified. More keys: AP_rare, AP_common, AP_frequent, AR_300, and
    the frequency group of each class. Only judged detections are TP or FP.

    Raises UserError for detections of an image or category that the annotations lack, and for annotations without the
    keys of LVIS.
    """
    boxes, found = judged(truth, detections)
    classes = len(truth["categories"])
    frequency = np.array([c["frequency"] for c in sorted(truth["categories"], key=lambda c: int(c["id"]))], np.str_)
    precision, recall = curves(boxes, found, classes, AREAS, LIMIT)
    recalls = {LIMIT: recall[..., 0]}
    for limit in AR_LIMITS:
        recalls[limit] = curves(*judged(truth, detections, limit), classes)[1][..., 0]
    rows = per_class(truth, np.bincount(boxes.label, minlength=classes), precision[..., 0], recalls[100])
    metrics = {
        "images": len(truth["images"]),
        "boxes": len(boxes.label),
        "detections": len(detections),
        **averages(precision, recall),
        **{f"AP_{name}": mean(precision[:, :, frequency == group, 0]) for name, group in GROUPS.items()},
        **{f"AR_{limit}": mean(values) for limit, values in recalls.items()},
        "per_class": [row | {"frequency": str(group)} for row, group in zip(rows, frequency, strict=True)],
        "operating_point": {"score": operating_score, "counts": _counts(boxes, found, classes, operating_score)},
    }
    return Evaluation(metrics, curve_table(precision[..., 0]))


def _require_keys(truth: dict[str, Any]) -> None:
    fault = lacking(truth)
    if fault:
        raise UserError(f"{fault}; evaluate with the annotations of LVIS, or run the `data` command again")


def judged(truth: dict[str, Any], detections: Detections, limit: int = LIMIT) -> tuple[Boxes, Found]:
    """The boxes, and of the best ``limit`` detections of each image those whose category was looked for there.

    Raises UserError as :func:`evaluate` does.
    """
    _require_keys(truth)
    boxes = Boxes.of(truth)
    found = Found.of(_best(detections, limit), truth)
    classes = len(truth["categories"])
    pair = found.image * classes + found.label
    looked_for = np.union1d(boxes.image * classes + boxes.label, _pairs(truth, "neg_category_ids"))
    incomplete = np.isin(pair, _pairs(truth, "not_exhaustive_category_ids"))
    found = replace(found, pardoned=incomplete).select(np.isin(pair, looked_for))
    return replace(boxes, crowd=np.zeros_like(boxes.crowd)), found


def _best(detections: Detections, limit: int) -> Detections:
    """At most ``limit`` detections of each image, those of highest score; of equal scores the first."""
    order = np.lexsort((-detections.score, detections.image_id))
    image = detections.image_id[order]
    rank = np.arange(len(image)) - np.searchsorted(image, image)
    return detections.select(np.sort(order[rank < limit]))


def _pairs(truth: dict[str, Any], key: str) -> Ints:
    """Numbers, image times K plus label, of the categories that a list of each image names."""
    named = [(image["id"], category) for image in truth["images"] for category in image[key]]
    images, categories = np.array(named, np.int64).reshape(-1, 2).T
    return positions("image", images, truth, "annotations") * len(truth["categories"]) + positions(
        "category", categories, truth, "annotations"
    )


def _counts(boxes: Boxes, found: Found, classes: int, score: float) -> list[dict[str, float | int | None]]:
    """TP, FP and FN of the judged detections that reach a score."""
    kept = found.select(found.score >= score)
    rows = []
    for iou in COUNT_IOUS:
        taken = matched(boxes, kept, classes, float(IOUS[threshold(iou)]), LIMIT)
        false = ~taken & ~kept.pardoned
        rows.append(operating_row(iou, int(taken.sum()), int(false.sum()), len(boxes.label)))
    return rows

"""From precision and recall of each class to the numbers and curves of a record, by COCO's rules and by LVIS' alike.

Arrays have the axes T (IoU thresholds), R (recalls), K (classes in the order of their ids) and A (all areas, small,
medium, large); -1 stands where a class has no boxes, and is left out of every mean.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from imbdet.evaluation.matching import IOUS, RECALLS, Floats, Ints

COUNT_IOUS = (0.5, 0.75, 0.9)
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Evaluation:
    """The results of one set of detections.

    metrics: AP, AP50, ..., per_class, operating_point, as in ``evaluation.json``; None where undefined.
    curves: columns iou ("0.5", "0.75", "0.9", "mean"), recall (0, 0.01, ..., 1) and precision, the mean over the
    classes that have boxes; NaN if there are none.
    """

    metrics: dict[str, Any]
    curves: pd.DataFrame


def mean(values: Floats) -> float | None:
    """Mean over the defined entries of an array of any shape; None without any."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def threshold(iou: float) -> int:
    """Position of an IoU threshold."""
    return int(np.argmin(np.abs(IOUS - iou)))


def averages(precision: Floats, recall: Floats) -> dict[str, float | None]:
    """AP, AP50, AP75, AP90, AP and AR by size. precision: [T, R, K, A]; recall: [T, K, A]."""
    values = {"AP": mean(precision[..., 0])}
    for iou in COUNT_IOUS:
        values[f"AP{round(100 * iou)}"] = mean(precision[threshold(iou), ..., 0])
    for index, size in enumerate(SIZES, start=1):
        values[f"AP_{size}"] = mean(precision[..., index])
        values[f"AR_{size}"] = mean(recall[..., index])
    return values


def per_class(truth: dict[str, Any], boxes: Ints, precision: Floats, recall: Floats) -> list[dict[str, Any]]:
    """A row for each category, by id. boxes: [K]; precision: [T, R, K]; recall: [T, K] with 100 detections."""
    categories = sorted(truth["categories"], key=lambda category: int(category["id"]))
    return [
        {
            "category_id": category["id"],
            "name": category["name"],
            "boxes": int(boxes[k]),
            "AP": mean(precision[..., k]),
            "AP50": mean(precision[threshold(0.5), :, k]),
            "AR_100": mean(recall[:, k]),
        }
        for k, category in enumerate(categories)
    ]


def operating_row(iou: float, true: int, false: int, boxes: int) -> dict[str, float | int | None]:
    """TP, FP and FN at one IoU threshold, with the precision and recall that follow."""
    return {
        "iou": iou,
        "TP": true,
        "FP": false,
        "FN": boxes - true,
        "precision": true / (true + false) if true + false else None,
        "recall": true / boxes if boxes else None,
    }


def curve_table(precision: Floats) -> pd.DataFrame:
    """The content of ``precision_recall.csv``. precision: [T, R, K] of all areas."""
    with_boxes = precision[..., (precision > -1).all(axis=(0, 1))]
    rows = {str(iou): with_boxes[threshold(iou)] for iou in COUNT_IOUS}
    rows["mean"] = with_boxes.mean(axis=0)
    recalls = [float(np.round(r, 2)) for r in RECALLS]
    parts = []
    for name, values in rows.items():
        means = values.mean(axis=1) if values.shape[1] else np.full(len(recalls), np.nan)
        parts.append(pd.DataFrame({"iou": name, "recall": recalls, "precision": means}))
    return pd.concat(parts, ignore_index=True)

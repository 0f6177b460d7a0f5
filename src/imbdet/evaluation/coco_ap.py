"""AP and AR by COCO's definitions, counts of TP, FP and FN at an operating score, and precision-recall curves.

All numbers come from pycocotools (COCOeval, bounding boxes). Two facts about it that are easy to miss: its limit on
detections (1, 10, 100) is per image *and class*, and a class without ground-truth boxes is left out of every mean.
"""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from imbdet.config import Study
from imbdet.data.coco import read_annotations, read_json
from imbdet.errors import UserError
from imbdet.evaluation.detections import Detections
from imbdet.files import write_json, write_text
from imbdet.layout import Layout

SIZES = ("small", "medium", "large")
AR_LIMITS = (1, 10, 100)
COUNT_IOUS = (0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Evaluation:
    """The results of one set of detections.

    metrics: AP, AP50, ..., per_class, operating_point, as in ``evaluation.json``; None where undefined.
    curves: columns iou ("0.5", "0.75", "0.9", "mean"), recall (0, 0.01, ..., 1) and precision, the mean over the
    classes that have boxes; NaN if there are none.
    """

    metrics: dict[str, Any]
    curves: pd.DataFrame


def run(study: Study, layout: Layout, experiment: str) -> None:
    """Evaluate an experiment's detections on the val split: write ``evaluation.json`` and ``precision_recall.csv``."""
    chosen = study.experiment(experiment)
    path = layout.annotations("val")
    read_annotations(path)  # its checks: pycocotools, which wants the file as it is, has none
    truth = read_json(path)
    detections = Detections.load(layout.detections(experiment))
    settings = study.evaluate
    result = evaluate(truth, detections, settings.operating_score, settings.detections_per_image)
    record = {
        "study": study.name,
        "experiment": experiment,
        "label": chosen.label,
        "detector": chosen.detector,
        "method": chosen.method,
        "data": study.description,
        "seed": study.seed,
        **result.metrics,
    }
    write_text(layout.precision_recall(experiment), result.curves.to_csv(index=False))
    write_json(layout.evaluation(experiment), record)


def evaluate(
    truth: dict[str, Any], detections: Detections, operating_score: float, detections_per_image: int = 100
) -> Evaluation:
    """Compare detections with ground truth.

    truth: content of a COCO annotation file; never modified. Where ``area`` or ``iscrowd`` is absent, the box's area
    and 0 are taken.
    operating_score: only detections of at least this score count as TP or FP.
    detections_per_image: the detector's own cap. AP and AR by size use at most max(100, cap) detections per image and
    class; AR_1, AR_10 and AR_100 keep the limit in their name.

    Raises UserError if a detection's image or category is not in the annotations.
    """
    _refuse_unknown("image", detections.image_id, truth["images"])
    _refuse_unknown("category", detections.category_id, truth["categories"])
    ground_truth = _ground_truth(truth)
    limits = sorted({*AR_LIMITS, max(detections_per_image, AR_LIMITS[-1])})
    coco = _silently_evaluate(truth, ground_truth, _results(detections), limits)
    metrics = {
        "images": len(truth["images"]),
        "boxes": sum(not a["iscrowd"] for a in ground_truth),
        "detections": len(detections),
        **_averages(coco),
        "per_class": _per_class(coco, truth, ground_truth),
        "operating_point": {"score": operating_score, "counts": [_count(coco, t, operating_score) for t in COUNT_IOUS]},
    }
    return Evaluation(metrics, _curves(coco))


def _refuse_unknown(kind: str, ids: NDArray[np.int64], entries: list[dict[str, Any]]) -> None:
    unknown = sorted(set(ids.tolist()) - {entry["id"] for entry in entries})
    if unknown:
        some = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise UserError(
            f"detections name {kind} id {some}, not in the annotations ({len(entries)} {kind} entries, unknown ids: "
            f"{len(unknown)}); they belong to other data: run the `detect` command again"
        )


def _ground_truth(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Copies of the annotations, numbered from 1: pycocotools takes a match with id 0 for no match."""
    return [
        {
            "id": number,
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": a["bbox"],
            "area": a.get("area", a["bbox"][2] * a["bbox"][3]),
            "iscrowd": a.get("iscrowd", 0),
        }
        for number, a in enumerate(truth["annotations"], start=1)
    ]


def _results(detections: Detections) -> list[dict[str, Any]]:
    """What ``COCO.loadRes`` would make of the detections; it fails where there are none."""
    columns = (detections.image_id, detections.category_id, detections.bbox.astype(np.float64), detections.score)
    return [
        {"id": number, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0, "score": s}
        for number, (i, c, b, s) in enumerate(zip(*(c.tolist() for c in columns), strict=True), start=1)
    ]


def _silently_evaluate(
    truth: dict[str, Any], ground_truth: list[dict[str, Any]], results: list[dict[str, Any]], limits: list[int]
) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (ground_truth, results):
            side = COCO()
            side.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}
            side.createIndex()
            sides.append(side)
        coco = COCOeval(*sides, iouType="bbox")
        coco.params.maxDets = limits
        coco.evaluate()
        coco.accumulate()
    return coco


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean over the defined entries; pycocotools marks the others with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _threshold(coco: COCOeval, iou: float) -> int:
    return int(np.argmin(np.abs(coco.params.iouThrs - iou)))


def _averages(coco: COCOeval) -> dict[str, float | None]:
    """AP and AR, from ``precision`` [IoU, recall, class, size, limit] and ``recall`` [IoU, class, size, limit]."""
    precision, recall = coco.eval["precision"], coco.eval["recall"]
    averages = {"AP": _mean(precision[..., 0, -1])}
    for iou in COUNT_IOUS:
        averages[f"AP{round(100 * iou)}"] = _mean(precision[_threshold(coco, iou), ..., 0, -1])
    for index, size in enumerate(SIZES, start=1):
        averages[f"AP_{size}"] = _mean(precision[..., index, -1])
        averages[f"AR_{size}"] = _mean(recall[..., index, -1])
    for limit in AR_LIMITS:
        averages[f"AR_{limit}"] = _mean(recall[..., 0, coco.params.maxDets.index(limit)])
    return averages


def _per_class(
    coco: COCOeval, truth: dict[str, Any], ground_truth: list[dict[str, Any]]
) -> list[dict[str, str | int | float | None]]:
    precision, recall = coco.eval["precision"][..., 0, -1], coco.eval["recall"][..., 0, :]
    names = {category["id"]: category["name"] for category in truth["categories"]}
    return [
        {
            "category_id": category,
            "name": names[category],
            "boxes": sum(a["category_id"] == category and not a["iscrowd"] for a in ground_truth),
            "AP": _mean(precision[..., k]),
            "AP50": _mean(precision[_threshold(coco, 0.5), :, k]),
            "AR_100": _mean(recall[:, k, coco.params.maxDets.index(100)]),
        }
        for k, category in enumerate(int(c) for c in coco.params.catIds)
    ]


def _count(coco: COCOeval, iou: float, score: float) -> dict[str, float | int | None]:
    """TP, FP and FN at one IoU threshold, over all classes, of the detections that reach ``score``.

    A detection matched to a crowd region is neither TP nor FP; a second detection of a matched box is FP. Matching
    goes from the highest score down, so leaving out the lowest scores changes no other match.
    """
    row = _threshold(coco, iou)
    all_sizes = coco.params.areaRng[0]
    true = false = boxes = 0
    for entry in coco.evalImgs:
        if entry is None or entry["aRng"] != all_sizes:
            continue
        counted = (np.array(entry["dtScores"]) >= score) & ~entry["dtIgnore"][row]
        matched = entry["dtMatches"][row] > 0
        true += int(np.sum(counted & matched))
        false += int(np.sum(counted & ~matched))
        boxes += int(np.sum(entry["gtIgnore"] == 0))
    return {
        "iou": iou,
        "TP": true,
        "FP": false,
        "FN": boxes - true,
        "precision": true / (true + false) if true + false else None,
        "recall": true / boxes if boxes else None,
    }


def _curves(coco: COCOeval) -> pd.DataFrame:
    precision = coco.eval["precision"][..., 0, -1]
    with_boxes = precision[..., (precision > -1).all(axis=(0, 1))]
    rows = {str(iou): with_boxes[_threshold(coco, iou)] for iou in COUNT_IOUS}
    rows["mean"] = with_boxes.mean(axis=0)
    recalls = [float(np.round(r, 2)) for r in coco.params.recThrs]
    parts = []
    for name, values in rows.items():
        mean = values.mean(axis=1) if values.shape[1] else np.full(len(recalls), np.nan)
        parts.append(pd.DataFrame({"iou": name, "recall": recalls, "precision": mean}))
    return pd.concat(parts, ignore_index=True)

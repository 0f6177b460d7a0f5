"""AP and AR by COCO's definitions, counts of TP, FP and FN at an operating score, and precision-recall curves.

All numbers come from pycocotools (COCOeval, bounding boxes). Two facts about it that are easy to miss: its limit on
detections (1, 10, 100) is per image *and class*, and a class without ground-truth boxes is left out of every mean.
"""

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from imbdet.config import Study
from imbdet.data.coco import read_annotations, read_json
from imbdet.evaluation import lvis_ap, voc_ap
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
from imbdet.evaluation.matching import Boxes, positions
from imbdet.files import write_json, write_text
from imbdet.layout import Layout

AR_LIMITS = (1, 10, 100)


def run(study: Study, layout: Layout, experiment: str) -> None:
    """Evaluate an experiment's detections on the val split: write ``evaluation.json`` and ``precision_recall.csv``.

    By the rules of LVIS (:mod:`imbdet.evaluation.lvis_ap`) where those are the data's, and with the AP of VOC besides
    (:mod:`imbdet.evaluation.voc_ap`) where they are of its format; see :attr:`imbdet.settings.Source.rules`.
    """
    chosen = study.experiment(experiment)
    path = layout.annotations("val")
    read_annotations(path)  # its checks: pycocotools, which wants the file as it is, has none
    truth = read_json(path)
    detections = Detections.load(layout.detections(experiment), path)
    settings = study.evaluate
    if study.data.rules == "lvis":
        result = lvis_ap.evaluate(truth, detections, settings.operating_score)
    else:
        result = evaluate(truth, detections, settings.operating_score, settings.detections_per_image)
    if study.data.rules == "voc":
        means, rows = voc_ap.evaluate(truth, detections)
        by_class = [row | more for row, more in zip(result.metrics["per_class"], rows, strict=True)]
        result = replace(result, metrics={**result.metrics, **means, "per_class": by_class})
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
    positions("image", detections.image_id, truth, "detections")
    positions("category", detections.category_id, truth, "detections")
    ground_truth, boxes = _ground_truth(truth), Boxes.of(truth)
    limits = sorted({*AR_LIMITS, max(detections_per_image, AR_LIMITS[-1])})
    coco = _silently_evaluate(truth, ground_truth, _results(detections), limits)
    precision, recall = coco.eval["precision"], coco.eval["recall"]  # [T, R, K, A, limits], [T, K, A, limits]
    recalls = {limit: recall[..., 0, limits.index(limit)] for limit in AR_LIMITS}
    by_class = np.bincount(boxes.label[~boxes.crowd], minlength=len(truth["categories"]))
    metrics = {
        "images": len(truth["images"]),
        "boxes": int(by_class.sum()),
        "detections": len(detections),
        **averages(precision[..., -1], recall[..., -1]),
        **{f"AR_{limit}": mean(values) for limit, values in recalls.items()},
        "per_class": per_class(truth, by_class, precision[..., 0, -1], recalls[100]),
        "operating_point": {"score": operating_score, "counts": [_count(coco, t, operating_score) for t in COUNT_IOUS]},
    }
    return Evaluation(metrics, curve_table(precision[..., 0, -1]))


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


def _count(coco: COCOeval, iou: float, score: float) -> dict[str, float | int | None]:
    """TP, FP and FN at one IoU threshold, over all classes, of the detections that reach ``score``.

    A detection matched to a crowd region is neither TP nor FP; a second detection of a matched box is FP. Matching
    goes from the highest score down, so leaving out the lowest scores changes no other match.
    """
    row = threshold(iou)
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
    return operating_row(iou, true, false, boxes)

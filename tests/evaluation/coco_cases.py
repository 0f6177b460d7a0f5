"""Small data sets for the tests of the evaluation, and its definitions written out slowly in plain Python."""

import numpy as np

from imbdet.evaluation.detections import Detections

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
EVERY_SIZE = (0, 1e10)
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


def truth_of(annotations, images=(1,), categories=(1,)):
    """A COCO annotation file in memory from (image, category, bbox[, further keys]) rows, numbered from 0."""
    return {
        "images": [{"id": i, "width": 400, "height": 400, "file_name": f"{i}.bmp"} for i in images],
        "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": list(bbox), **(further[0] if further else {})}
            for n, (image, category, bbox, *further) in enumerate(annotations)
        ],
    }


def detections_of(rows):
    """Detections from (image, category, bbox, score) rows."""
    image, category, bbox, score = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        np.array(image, np.int64),
        np.array(category, np.int64),
        np.array(bbox, np.float32).reshape(-1, 4),
        np.array(score, np.float32),
    )


def perfect(truth):
    """Every box that is no crowd region, detected once, with scores from 0.5 up."""
    boxes = [a for a in truth["annotations"] if not a.get("iscrowd")]
    return detections_of([(a["image_id"], a["category_id"], a["bbox"], 0.5 + i / 1e3) for i, a in enumerate(boxes)])


def random_case(seed):
    """Crowds, sizes of all three kinds, missing keys, an absent class, near misses, duplicates, wrong classes."""
    rng = np.random.default_rng(seed)
    images, categories = (2, 5, 7, 11), (1, 3, 4, 9)
    annotations, found = [], []
    for image in images:
        for _ in range(int(rng.integers(0, 7))):
            side = rng.choice([20, 60, 150], 2) * rng.uniform(0.7, 1.3, 2)
            box = np.round([*rng.uniform(0, 200, 2), *side], 1).tolist()
            category = int(rng.choice(categories[:3]))
            further = {} if rng.random() < 0.5 else {"area": 0.7 * box[2] * box[3], "iscrowd": int(rng.random() < 0.3)}
            annotations.append((image, category, box, further))
            for _ in range(int(rng.integers(0, 4))):
                near = np.array(box) + rng.normal(0, 0.08, 4) * np.array([*side, *side])
                found.append((image, int(rng.choice([category, category, category, 9])), near))
        strays = rng.uniform(10, 200, (int(rng.integers(0, 4)), 4))
        found += [(image, int(rng.choice(categories)), box) for box in strays]
    scores = rng.permutation(np.linspace(0.05, 0.95, len(found)))
    rows = [(i, c, np.maximum(b, 1), s) for (i, c, b), s in zip(found, scores, strict=True)]
    return truth_of(annotations, images, categories), detections_of(rows)


def overlap(found, box, crowd):
    """IoU of two xywh boxes; for a crowd region, intersection over the detection's area."""
    sides = [max(0, min(found[k] + found[k + 2], box[k] + box[k + 2]) - max(found[k], box[k])) for k in (0, 1)]
    intersection, area = sides[0] * sides[1], found[2] * found[3]
    return intersection / (area if crowd else area + box[2] * box[3] - intersection)


def verdicts(truth, detections, category, iou, *, sizes=EVERY_SIZE, limit=100):
    """Greedy matching: (score, is it TP?) of each counted detection of a class, and the number of its boxes."""
    counted, boxes = [], 0
    for image in sorted(entry["id"] for entry in truth["images"]):
        own = [a for a in truth["annotations"] if (a["image_id"], a["category_id"]) == (image, category)]
        crowd = [bool(a.get("iscrowd", 0)) for a in own]
        area = [a.get("area", a["bbox"][2] * a["bbox"][3]) for a in own]
        ignored = [c or not sizes[0] <= s <= sizes[1] for c, s in zip(crowd, area, strict=True)]
        boxes += ignored.count(False)
        taken = set()
        rows = np.flatnonzero((detections.image_id == image) & (detections.category_id == category))
        for row in sorted(rows, key=lambda r: -detections.score[r])[:limit]:
            found = detections.bbox[row].astype(float)
            ious = {g: overlap(found, a["bbox"], crowd[g]) for g, a in enumerate(own) if crowd[g] or g not in taken}
            ious = {g: value for g, value in ious.items() if value >= iou}
            proper = {g: value for g, value in ious.items() if not ignored[g]}
            best = max(proper or ious, key=(proper or ious).get, default=None)
            taken.add(best)
            if best is None and sizes[0] <= found[2] * found[3] <= sizes[1]:
                counted.append((detections.score[row], False))
            elif proper:
                counted.append((detections.score[row], True))
    return sorted(counted, reverse=True), boxes


def precision_at_recalls(counted, boxes):
    """Largest precision at a recall of at least each of the 101 values, 0 where that recall is not reached."""
    true = np.cumsum([is_true for _, is_true in counted])
    recall, precision = true / boxes, true / np.arange(1, len(counted) + 1)
    return np.array([precision[recall >= r].max(initial=0) for r in RECALLS])


def average(truth, detections, kind, *, ious=IOUS, sizes=EVERY_SIZE, limit=100, categories=None):
    """AP or AR over thresholds and over the classes with boxes; None where no class has any."""
    values = []
    for category in categories or [c["id"] for c in truth["categories"]]:
        for iou in ious:
            counted, boxes = verdicts(truth, detections, category, iou, sizes=sizes, limit=limit)
            if boxes:
                recall = sum(is_true for _, is_true in counted) / boxes
                values.append(precision_at_recalls(counted, boxes).mean() if kind == "AP" else recall)
    return float(np.mean(values)) if values else None


def counts(truth, detections, iou, score):
    """TP, FP, FN over all classes of the detections that reach a score."""
    true = false = boxes = 0
    for category in truth["categories"]:
        counted, own = verdicts(truth, detections, category["id"], iou)
        kept = [is_true for s, is_true in counted if s >= score]
        true, false, boxes = true + sum(kept), false + len(kept) - sum(kept), boxes + own
    return true, false, boxes - true

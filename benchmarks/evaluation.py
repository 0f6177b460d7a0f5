"""AP by pycocotools and by the evaluator for training, on a made-up set of the size of COCO's val2017.

    python benchmarks/evaluation.py

5,000 images, 36,000 boxes, 80 classes of falling frequency, 400,000 detections: half of them near a box, most of those
of its class. What is timed starts from the content of the annotation file and from flat arrays of detections, and ends
with the numbers. All ways take turns in one process with one thread, so that a busy machine slows all alike:

- ``reference``: ``imbdet.evaluation.coco_ap.evaluate``, which is pycocotools and makes all that a record holds.
- ``reference, AP alone``: pycocotools for AP, AP50 and AP75 only, without sizes and other limits.
- ``library``: faster-coco-eval as its documentation uses it, for AP, AP50 and AP75 only.
- ``fast``: ``imbdet.evaluation.fast.average_precision``, for AP, AP50 and AP75.

The result goes to ``results/benchmarks/evaluation.json``; ``python benchmarks/page.py`` makes ``docs/benchmarks.md``.
"""

import argparse
import contextlib
import io
import os
import statistics
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO as FastCOCO
from faster_coco_eval import COCOeval_faster
from measuring import Subject, ratio, take_turns
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from imbdet.evaluation import coco_ap, fast
from imbdet.evaluation.averages import mean, threshold
from imbdet.evaluation.detections import Detections
from imbdet.files import write_json
from imbdet.training.record import hardware, versions

RECORD = Path("results/benchmarks/evaluation.json")
OPERATING_SCORE = 0.5
Averages = dict[str, float | None]


def make_case(images: int, boxes: int, classes: int, detections: int) -> tuple[dict[str, Any], Detections]:
    """The content of an annotation file and detections; class k of 0..K-1 has frequency ~ 1 / (k + 1)."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, classes + 1)
    image, label = rng.integers(images, size=boxes), rng.choice(classes, boxes, p=frequency / frequency.sum())
    sides = np.exp(rng.uniform(np.log(8), np.log(320), (boxes, 2)))
    bbox = np.round(np.concatenate([rng.uniform(0, 1, (boxes, 2)) * (640 - sides), sides], axis=1), 2)
    crowd = rng.random(boxes) < 0.01
    columns = (image.tolist(), label.tolist(), bbox.tolist(), crowd.tolist())
    truth = {
        "images": [{"id": i, "width": 640, "height": 640, "file_name": f"{i}.jpg"} for i in range(images)],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(classes)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": k, "bbox": b, "area": b[2] * b[3], "iscrowd": int(c)}
            for n, (i, k, b, c) in enumerate(zip(*columns, strict=True), start=1)
        ],
    }
    source = rng.integers(boxes, size=detections)
    moved = bbox[source] + rng.normal(0, 0.1, (detections, 4)) * np.tile(bbox[source, 2:], 2)
    far = rng.random(detections) < 0.5
    moved[far, :2] = rng.uniform(0, 500, (far.sum(), 2))
    confused = rng.random(detections) < 0.3
    found = np.where(confused, rng.integers(classes, size=detections), label[source])
    box = np.maximum(moved, 1).astype(np.float32)
    return truth, Detections(image[source], found, box, rng.random(detections).astype(np.float32))


def make_ways(truth: dict[str, Any], detections: Detections) -> dict[str, Callable[[], Averages]]:
    """Each way to the three averages."""
    return {
        "reference": lambda: coco_ap.evaluate(truth, detections, OPERATING_SCORE).metrics,
        "reference, AP alone": lambda: by_library(COCO, COCOeval, truth, detections),
        "library": lambda: by_library(FastCOCO, COCOeval_faster, truth, detections),
        "fast": lambda: fast.average_precision(truth, detections),
    }


def by_library(coco: Any, evaluator: Any, truth: dict[str, Any], detections: Detections) -> Averages:
    """A library's own classes, from the same input."""
    columns = (detections.image_id, detections.category_id, detections.bbox.astype(np.float64), detections.score)
    keys = ("image_id", "category_id", "bbox", "score")
    results = [dict(zip(keys, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = coco()
        ground_truth.dataset = truth | {"annotations": [dict(a) for a in truth["annotations"]]}
        ground_truth.createIndex()
        evaluation = evaluator(ground_truth, ground_truth.loadRes(results), "bbox")
        evaluation.params.maxDets = [100]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]
    return {"AP": mean(precision)} | {f"AP{k}": mean(precision[threshold(k / 100)]) for k in (50, 75)}


def make_record(sizes: dict[str, int], repetitions: int) -> dict[str, Any]:
    """Times, ratios, and how far the averages of each way are from the reference."""
    torch.set_num_threads(1)
    truth, detections = make_case(**sizes)
    ways = make_ways(truth, detections)
    values = {name: way() for name, way in ways.items()}  # warms up
    on_cpu = torch.zeros(0)  # nothing to wait for
    times = take_turns({name: Subject(way, (on_cpu,)) for name, way in ways.items()}, repetitions)
    rows = [
        {
            "name": name,
            "times_s": own,
            "median_s": statistics.median(own),
            "times_fast": ratio(own, times["fast"]),
            "largest_difference": max(abs(values[name][key] - values["reference"][key]) for key in values["fast"]),
        }
        for name, own in times.items()
    ]
    return {
        "settings": {**sizes, "repetitions": repetitions},
        "versions": versions() | {"faster-coco-eval": version("faster-coco-eval")},
        "load_average": os.getloadavg()[0],
        "results": [{"hardware": hardware(torch.device("cpu")), "AP": values["fast"]["AP"], "rows": rows}],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--boxes", type=int, default=36_000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=400_000)
    parser.add_argument("--repetitions", type=int, default=5)
    sizes = vars(parser.parse_args())
    record = make_record(sizes, sizes.pop("repetitions"))
    write_json(RECORD, record)
    for row in record["results"][0]["rows"]:
        print(f"{row['name']:20} {row['median_s']:6.2f} s, {row['times_fast']:.1f} times the fast one")


if __name__ == "__main__":
    main()

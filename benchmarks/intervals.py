"""The paired bootstrap of two methods on a made-up set of the size of COCO's val2017, beside a plain NumPy loop.

    python benchmarks/intervals.py

5,000 images, 36,000 boxes, 80 classes, two methods with 400,000 detections each and 1,000 resamples of the images, on
two cores (or on as many as there are). What is timed starts from the content of the annotation file and flat arrays of
detections:

- ``two methods``: ``imbdet.evaluation.paired.compare``: matching, resamples, intervals and differences.
- ``matching``: ``match``, of one method.
- ``resampling``: ``resampled_ap``, of one method that is matched.
- ``plain NumPy``: the same by a loop: for each resample, class and IoU threshold the cumulative counts of the sorted
  detections, the curve and its 101 recalls. A few resamples are timed, and multiplied up.

They take turns, so that a busy machine slows all alike; the time on all cores together (CPU) depends less on what else
runs. The result goes to ``results/benchmarks/intervals.json``; ``python benchmarks/page.py`` makes its page.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation import make_case
from measuring import ratio

from imbdet.evaluation.detections import Detections
from imbdet.evaluation.intervals import draw
from imbdet.evaluation.matching import IOUS, RECALLS
from imbdet.evaluation.paired import Run, compare
from imbdet.evaluation.resampling import ClassMatches, match, resampled_ap
from imbdet.files import write_json
from imbdet.training.record import hardware, versions

RECORD = Path("results/benchmarks/intervals.json")
CORES = 2
NAMES = ("one", "other")


def make_methods(sizes: dict[str, int]) -> tuple[dict[str, Any], dict[str, Detections]]:
    """Ground truth and two methods, the second with other boxes and scores for the same objects."""
    truth, one = make_case(**sizes)
    rng = np.random.default_rng(1)
    moved = one.bbox * np.exp(rng.normal(0, 0.02, one.bbox.shape)).astype(np.float32)
    score = 0.7 * one.score + 0.3 * rng.random(len(one)).astype(np.float32)
    return truth, dict(zip(NAMES, (one, Detections(one.image_id, one.category_id, moved, score)), strict=True))


def make_ways(
    truth: dict[str, Any], methods: dict[str, Detections], resamples: int, plain_resamples: int
) -> dict[str, Callable[[], Any]]:
    """What is timed."""
    runs = {name: [Run(1, found, name)] for name, found in methods.items()}
    one, other = NAMES
    images = draw(resamples, len(truth["images"]), 1, "images", seed=1).images
    matches = match(truth, methods[one])
    return {
        "two methods": lambda: compare(truth, runs.items(), [1], {one: [other]}, resamples, "images"),
        "matching": lambda: match(truth, methods[one]),
        "resampling": lambda: resampled_ap(matches, images),
        "plain NumPy": lambda: plain(matches, images[:plain_resamples]),
    }


def plain(matches: list[ClassMatches], images: np.ndarray) -> np.ndarray:
    """[R, T] AP of each resample, one curve at a time. images: [R, I] how often each stands in a resample."""
    ap = np.zeros((len(images), len(IOUS)))
    for row, times in enumerate(images):
        known = [one for one in matches if (one.boxes * times).sum()]
        for one in known:
            weight, boxes = times[one.image], (one.boxes * times).sum()
            for t, (taken, ignored) in enumerate(zip(one.taken, one.ignored, strict=True)):
                true, false = np.cumsum(weight * taken), np.cumsum(weight * ~(taken | ignored))
                precision = np.maximum.accumulate((true / np.maximum(true + false, 1))[::-1])[::-1]
                place = np.searchsorted(true / boxes, RECALLS)
                ap[row, t] += np.append(precision, 0)[place].mean() / len(known)
    return ap


def measure(way: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock, and of all cores together."""
    began, began_cpu = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - began, time.process_time() - began_cpu


def make_record(sizes: dict[str, int], resamples: int, plain_resamples: int, repetitions: int) -> dict[str, Any]:
    """Times of each way in every turn, those of the loop multiplied up, and how far its APs are from the others."""
    ways = make_ways(*make_methods(sizes), resamples, plain_resamples)
    difference = np.abs(ways["resampling"]()[:plain_resamples] - ways["plain NumPy"]()).max()
    load = os.getloadavg()[0]
    turns = [{name: measure(way) for name, way in ways.items()} for _ in range(repetitions)]
    seconds, cpu = ({name: [turn[name][clock] for turn in turns] for name in ways} for clock in (0, 1))
    for times in (seconds, cpu):
        times["plain NumPy"] = [own * resamples / plain_resamples for own in times["plain NumPy"]]
    rows = [
        {
            "name": name,
            "times_s": seconds[name],
            "cpu_s": cpu[name],
            "median_s": statistics.median(seconds[name]),
            "median_cpu_s": statistics.median(cpu[name]),
            "times_resampling": ratio(seconds[name], seconds["resampling"]),
            "cpu_times_resampling": ratio(cpu[name], cpu["resampling"]),
        }
        for name in ways
    ]
    settings = {"resamples": resamples, "plain_resamples": plain_resamples, "repetitions": repetitions}
    return {
        "settings": {**sizes, **settings, "cores": len(os.sched_getaffinity(0))},
        "versions": versions(),
        "load_average": load,
        "results": [{"hardware": hardware(torch.device("cpu")), "largest_difference": difference, "rows": rows}],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--boxes", type=int, default=36_000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=400_000, help="of each method")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--plain-resamples", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    sizes = vars(parser.parse_args())
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    record = make_record(sizes, *(sizes.pop(key) for key in ("resamples", "plain_resamples", "repetitions")))
    write_json(RECORD, record)
    for row in record["results"][0]["rows"]:
        print(f"{row['name']:12} {row['median_s']:6.1f} s, CPU {row['median_cpu_s']:6.1f} s")


if __name__ == "__main__":
    main()

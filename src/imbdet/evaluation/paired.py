"""``python -m imbdet intervals STUDY``: how sure each AP and each difference between methods is, from detections alone.

See :mod:`imbdet.evaluation.intervals` for what an interval means and :mod:`imbdet.evaluation.resampling` for how the AP
of a resample comes about. Each run is matched and resampled once, whatever the number of differences it is part of.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from tqdm import tqdm

from imbdet.config import Study
from imbdet.data.coco import read_annotations, read_json
from imbdet.errors import UserError, nearest
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.holm import holm
from imbdet.evaluation.intervals import LEVEL, METRICS, POWER, Measured, Over, Resamples, draw, measure
from imbdet.evaluation.resampling import ClassMatches, match
from imbdet.files import write_json
from imbdet.layout import Layout

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What one training of an experiment detects on the images that all runs share; ``where`` is for messages."""

    seed: int
    detections: Detections
    where: str


def run(study: Study, layout: Layout) -> None:
    """Write ``intervals.json`` from the detections of every experiment and seed on the val split.

    Raises :class:`UserError` as :func:`compare` does, and for a study that does not ask for intervals.
    """
    settings = study.intervals
    if settings is None:
        raise UserError(f"study {study.name} has no section `intervals`; say there what is resampled and compared")
    path = layout.annotations("val")
    read_annotations(path)  # its checks
    limit = max(100, study.evaluate.detections_per_image)
    pairs = comparisons(study, settings.baselines)
    runs = _read(study, layout)
    record = compare(read_json(path), runs, study.seeds, pairs, settings.resamples, settings.over, limit)
    for name, entry in record["experiments"].items():
        entry.update(_about(study, name))
    for entry in record["differences"]:
        entry.update(_about(study, entry["experiment"]))
    write_json(layout.intervals, {"study": study.name, "data": study.description, **record})


def comparisons(study: Study, baselines: Sequence[str]) -> dict[str, list[str]]:
    """The other experiments of each baseline's detector; two baselines are compared once, under the first of them."""
    pairs = {}
    for place, baseline in enumerate(baselines):
        detector = study.experiment(baseline).detector
        others = [name for name, other in study.experiments.items() if other.detector == detector]
        pairs[baseline] = [name for name in others if name not in baselines[: place + 1]]
    return {baseline: rivals for baseline, rivals in pairs.items() if rivals}


def _read(study: Study, layout: Layout) -> Iterator[tuple[str, list[Run]]]:
    """Each experiment with its runs; one experiment's detections are in memory at a time."""
    annotations = layout.annotations("val")
    for name in tqdm(study.experiments, desc="intervals", mininterval=5):
        paths = {seed: layout.at_seed(seed).detections(name) for seed in study.seeds}
        yield name, [Run(seed, Detections.load(path, annotations), str(path)) for seed, path in paths.items()]


def _about(study: Study, experiment: str) -> dict[str, str]:
    chosen = study.experiment(experiment)
    return {"label": chosen.label, "detector": chosen.detector}


def compare(
    truth: dict[str, Any],
    experiments: Iterable[tuple[str, Sequence[Run]]],
    seeds: Sequence[int],
    pairs: Mapping[str, Sequence[str]],
    resamples: int,
    over: Over,
    limit: int = 100,
) -> Record:
    """AP, AP50 and AP75 of experiments with intervals, and the paired differences between them.

    Args:
        truth: content of a COCO annotation file; never modified.
        experiments: names with the runs of each, one a seed; taken in turn, so that a generator needs little memory.
        seeds: those of every experiment, in the order of the record. The first also seeds the resampling.
        pairs: for each baseline the experiments that are compared with it.
        resamples: of the images; 1,000 are usual.
        over: ``images`` for what holds of these very runs, ``seeds_and_images`` for what holds of the methods.
        limit: detections of an image and class that count.

    Returns:
        The record without names: images, seeds, resamples, over, level, power, least_p (so many resamples give no
        smaller p); ``experiments``, for each name and metric value, low, high, by_seed; ``differences``, for each pair
        and metric the same with p, p_holm (over the comparisons with one baseline in one metric) and smallest_effect.
        All are shares, and float64.

    Raises:
        UserError: no resamples; one seed where seeds are to be resampled; experiments of other seeds; a run without
            detections, or with those of images or categories that the annotations lack; a baseline or rival that is no
            experiment; too few boxes.
    """
    drawn = draw(resamples, len(truth["images"]), len(seeds), over, seeds[0])
    measured = {name: _measure(truth, name, runs, seeds, drawn, limit) for name, runs in experiments}
    for name in {*pairs, *(rival for rivals in pairs.values() for rival in rivals)} - measured.keys():
        raise UserError(f"{name!r} is to be compared, but is no experiment; {nearest(name, measured)}")
    every = product(pairs.items(), METRICS)
    rows = [row for (base, rivals), metric in every for row in _differences(measured, base, rivals, metric)]
    return {
        "images": len(truth["images"]),
        "seeds": list(seeds),
        "resamples": resamples,
        "over": over,
        "level": LEVEL,
        "power": POWER,
        "least_p": drawn.least_p,
        "experiments": {
            name: {metric: _entry(one, 0) for metric, one in own.items()} for name, own in measured.items()
        },
        "differences": rows,
    }


def _measure(
    truth: dict[str, Any], name: str, runs: Sequence[Run], seeds: Sequence[int], drawn: Resamples, limit: int
) -> dict[str, Measured]:
    own = {run.seed: run for run in runs}
    if sorted(own) != sorted(seeds):
        raise UserError(
            f"experiment {name} has runs of the seeds {', '.join(map(str, sorted(own)))}, but all are compared at "
            f"{', '.join(map(str, sorted(seeds)))}; differences are paired by seed: train it with the same ones"
        )
    return measure([_match(truth, name, own[seed], limit) for seed in seeds], drawn)


def _match(truth: dict[str, Any], name: str, run: Run, limit: int) -> list[ClassMatches]:
    try:
        if not len(run.detections):
            raise UserError(
                "no detections at all; train for longer, or lower evaluate.score_threshold and `detect` again"
            )
        return match(truth, run.detections, limit)
    except UserError as error:
        raise UserError(f"{run.where} (experiment {name}, seed {run.seed}): {error}") from None


def _differences(
    measured: Mapping[str, Mapping[str, Measured]], baseline: str, rivals: Sequence[str], metric: str
) -> list[Record]:
    """Each rival minus the baseline."""
    found = [measured[name][metric] - measured[baseline][metric] for name in rivals]
    p_values = [one.p_value for one in found]
    return [
        {
            "experiment": name,
            "baseline": baseline,
            "metric": metric,
            **_entry(one, -1),
            "p": p,
            "p_holm": float(adjusted),
            "smallest_effect": one.smallest_effect,
        }
        for name, one, p, adjusted in zip(rivals, found, p_values, holm(p_values), strict=True)
    ]


def _entry(one: Measured, least: int) -> Record:
    """``least`` is what an AP (0) or a difference (-1) is at least; at most both are 1, and so are their intervals."""
    low, high = one.interval
    return {"value": one.value, "low": max(low, least), "high": min(high, 1), "by_seed": one.by_seed.tolist()}

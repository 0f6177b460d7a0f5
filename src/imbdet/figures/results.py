"""The table of a study's results: every experiment, measured in one way."""

from itertools import product
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import captions, records
from imbdet.figures.tables import Column, numbers, text
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = ("AP", "AP50", "AP75", "AP90", "AP_small", "AP_medium", "AP_large", "AR_100")


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The evaluation of every run."""
    return [layout.at_seed(seed).evaluation(name) for name, seed in product(study.experiments, study.seeds)]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns experiment, label, detector, images and the metrics in percent, missing where nothing can be measured.

    They are means over the seeds; of several, AP_sd is the standard deviation of a run's AP.
    """
    return records.frame(_row(study, layout, name) for name in study.experiments)


def _row(study: Study, layout: Layout, name: str) -> dict[str, object]:
    runs = records.evaluations(study, layout, name)
    metrics = {metric: records.mean_percent(runs, metric) for metric in METRICS}
    spread = {"AP_sd": records.percent(stdev(run["AP"] for run in runs))} if len(runs) > 1 else {}
    return {**records.named(layout, name), "images": runs[0]["images"], **metrics, **spread}


def caption(study: Study, data: "DataFrame") -> str:
    """Say what the metrics are."""
    return (
        "Results of every experiment under one protocol, in percent. AP is COCO's mean over classes and ten thresholds "
        "of IoU from 0.50 to 0.95; AP50, AP75 and AP90 are at one threshold; small, medium and large objects are those "
        "with an area below 32 x 32, up to 96 x 96 and above, in pixels of the original image; AR100 is the maximum "
        f"recall with 100 detections an image. {_runs(study)} "
        + captions.about(study, f"measured on {data['images'].iloc[0]:,} validation images", study.seeds)
    )


def _runs(study: Study) -> str:
    if len(study.seeds) == 1:
        return "One run each, so that small differences may be noise."
    return f"Means of {len(study.seeds)} runs, and ± the standard deviation of a run's AP."


def table(data: "DataFrame") -> list[Column]:
    """A row for each experiment."""
    metrics = [
        Column("", metric.replace("AR_", "AR").replace("_", " "), numbers(data[metric], ".1f")) for metric in METRICS
    ]
    if "AP_sd" in data:
        metrics.insert(1, Column("", "±", numbers(data["AP_sd"], ".1f")))
    names = [
        Column("", "experiment", text(data["label"])),
        Column("", "detector", text(data["detector"].map(captions.detector_name))),
    ]
    return [*names, *metrics]

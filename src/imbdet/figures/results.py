"""The table of a study's results: every experiment, measured in one way."""

from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import captions, records
from imbdet.figures.tables import Column, numbers, text
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = ("AP", "AP50", "AP75", "AP90", "AP_small", "AP_medium", "AP_large", "AR_100")


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The evaluation of every experiment."""
    return [layout.evaluation(name) for name in study.experiments]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns experiment, label, detector, images and the metrics in percent, missing where nothing can be measured."""
    return records.frame(_row(layout, name) for name in study.experiments)


def _row(layout: Layout, name: str) -> dict[str, object]:
    record = records.read_json(layout.evaluation(name))
    metrics = {metric: records.percent(record[metric]) for metric in METRICS}
    return {**records.named(layout, name), "images": record["images"], **metrics}


def caption(study: Study, data: "DataFrame") -> str:
    """Say what the metrics are."""
    return (
        "Results of every experiment under one protocol, in percent. AP is COCO's mean over classes and ten thresholds "
        "of IoU from 0.50 to 0.95; AP50, AP75 and AP90 are at one threshold; small, medium and large objects are those "
        "with an area below 32 x 32, up to 96 x 96 and above, in pixels of the original image; AR100 is the maximum "
        "recall with 100 detections an image. One run each, so that small differences may be noise. "
        + captions.about(study, f"measured on {data['images'].iloc[0]:,} validation images")
    )


def table(data: "DataFrame") -> list[Column]:
    """A row for each experiment."""
    metrics = [
        Column("", metric.replace("AR_", "AR").replace("_", " "), numbers(data[metric], ".1f")) for metric in METRICS
    ]
    names = [Column("", "experiment", text(data["label"])), Column("", "detector", text(data["detector"]))]
    return [*names, *metrics]

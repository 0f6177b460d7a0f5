"""Precision-recall curves of a study's experiments at two IoU thresholds."""

from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import captions, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

THRESHOLDS = ("0.5", "0.75")
COLUMNS = ("iou", "recall", "precision")


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Curves and evaluation (label, number of images) of each experiment in the figure."""
    names = study.report.precision_recall
    return [path for name in names for path in (layout.precision_recall(name), layout.evaluation(name))]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns iou, recall, precision, experiment, label, detector, images."""
    return records.concat(_curves(layout, name) for name in study.report.precision_recall)


def _curves(layout: Layout, name: str) -> "DataFrame":
    curves = records.read_csv(layout.precision_recall(name), COLUMNS)
    record = records.read_json(layout.evaluation(name))
    curves = curves[curves["iou"].astype(str).isin(THRESHOLDS)].astype({"iou": float})  # other rows have words
    return curves.assign(**records.named(layout, name), images=record["images"])


def caption(study: Study, data: "DataFrame") -> str:
    """Say what a point and the area mean."""
    return (
        "Precision against recall at two thresholds of IoU, mean over the classes. Each curve is precision made "
        "monotone and read at 101 recalls, as COCO does; the number in the legend is its mean, which is the AP at that "
        "threshold (in percent). " + captions.about(study, f"measured on {data['images'].iloc[0]:,} validation images")
    )


def draw(data: "DataFrame") -> "Figure":
    """For each detector a panel for each threshold, one curve for each experiment, and below each panel its legend."""
    detectors = list(data.groupby("detector", sort=False))
    panel, gap = (3.0, 0.0) if len(detectors) == 1 else (2.6, 0.3)  # between a legend and the next detector
    legends = [0.2 * (curves["experiment"].nunique() + 1) + gap for _, curves in detectors]
    heights = [height for legend in legends for height in (panel, legend)]
    figure, axes = style.canvas(sum(heights), len(heights), len(THRESHOLDS), sharey="row", height_ratios=heights)
    for row, (key, curves) in enumerate(detectors):
        panels = axes[2 * row * len(THRESHOLDS) :]
        _draw_row(panels[: len(THRESHOLDS)], panels[len(THRESHOLDS) : 2 * len(THRESHOLDS)], curves)
        named = f"{captions.detector_name(str(key))}\n" if len(detectors) > 1 else ""
        panels[0].set_ylabel(f"{named}precision")
    return figure


def _draw_row(panels: "list[Axes]", below: "list[Axes]", data: "DataFrame") -> None:
    looks = style.unordered(data["experiment"].nunique())
    for panel, legend, (iou, curves) in zip(panels, below, data.groupby("iou"), strict=True):
        for look, (_, curve) in zip(looks, curves.groupby("experiment", sort=False), strict=True):
            name = f"{curve['label'].iloc[0]}: {100 * curve['precision'].mean():.1f}"
            panel.plot(curve["recall"], curve["precision"], label=name, **look)
        panel.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", title=f"IoU {iou}")
        style.legend_in(legend, panel, loc="upper center", title=f"AP at IoU {iou}")

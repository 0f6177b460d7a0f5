"""What a candidate weighs under each method beside plain cross entropy, by how well it fits its object."""

from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import captions, effective_weight, inspected, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Candidates and evaluation of one experiment for each method."""
    return effective_weight.inputs(study, layout)


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.inspected.read`: effective_weight and iou.

    The IoU with the ground truth is that of the predicted box where there is one to fit, for foreground, as all methods
    that look at the IoU do; for background it is that of the anchor or proposal itself.
    """
    columns = ("prior_iou", "predicted_iou", "effective_weight")
    found = inspected.read(study, layout, study.report.methods, columns)
    foreground = found["set"] == "foreground"
    found.insert(3, "iou", found["predicted_iou"].where(foreground, found["prior_iou"]))
    return found.drop(columns=["prior_iou", "predicted_iou"])


def caption(study: Study, data: "DataFrame") -> str:
    """Say what a point is and what its place means."""
    return (
        f"{effective_weight.meaning()} Across: IoU with the ground truth, of foreground that of the predicted box, "
        "which is what all methods that look at the IoU take, of background that of the anchor or proposal itself. "
        + captions.about(study, f"candidates of {data['images'].iloc[0]:,} validation images")
    )


def draw(data: "DataFrame") -> "Figure":
    """A panel for each method."""
    number = data["experiment"].nunique()
    figure, panels, below = style.grid(number, effective_weight.COLUMNS, effective_weight.HEIGHT)
    for axes, (label, rows) in zip(panels, inspected.experiments(data), strict=True):
        effective_weight.weights(axes, rows, "iou", label)
        axes.set(xlim=(-0.03, 1.03), xticks=(0, 0.5, 1))
    effective_weight.finish(panels, below, "IoU")
    return figure

"""Prime samples (Cao et al. 2020): the rank of each foreground candidate, and what it weighs for it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, inspected, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

OWN = ("rank", "iou", "class_weight")


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Candidates and evaluation (label) of each experiment of the list."""
    return inspected.inputs(layout, study.report.pisa)


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.inspected.read`, ranked foreground only: rank, iou and class_weight."""
    found = inspected.read(study, layout, study.report.pisa, OWN, needs=OWN)
    return found[(found["set"] == "foreground") & (found["rank"] >= 0)]


def caption(study: Study, data: "DataFrame") -> str:
    """Say what a rank is, and how far the weights spread."""
    weights = data["class_weight"]
    return (
        "Prime sample attention (Cao et al. 2020, arXiv 1904.04821): IoU hierarchical local rank of single foreground "
        "candidates against the IoU of their predicted boxes with their objects (rank + 1, logarithmic axis, the first "
        "at the top). Of each class in a batch of the evaluation the best box of every object comes first, then the "
        "second best of every object, and so on: hence a high IoU alone does not make a good rank. Colour: the weight "
        f"of the classification loss that follows (here {weights.min():.2f} to {weights.max():.2f}); weights keep the "
        f"sum of the losses, so that some are above 1. {captions.single(study)}"
        + captions.about(study, f"{len(data):,} candidates of {data['images'].iloc[0]:,} validation images, at random")
    )


def draw(data: "DataFrame") -> "Figure":
    """A panel for each experiment, one scale of colours for all."""
    from matplotlib.colors import Normalize

    experiments = inspected.experiments(data)
    columns = min(len(experiments), 3)
    figure, panels = style.canvas(3.2 * -(-len(experiments) // columns), -(-len(experiments) // columns), columns)
    weights = Normalize(0, data["class_weight"].max())
    for axes, (label, rows) in zip(panels, experiments, strict=False):
        look: dict[str, Any] = {"c": rows["class_weight"], "cmap": "viridis_r", "norm": weights, "s": 14}
        points = axes.scatter(rows["iou"], rows["rank"] + 1, rasterized=True, **look)
        axes.set(yscale="log", xlabel="IoU of the predicted box", title=label, xlim=(-0.03, 1.03))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.invert_yaxis()
    for axes in panels[len(experiments) :]:
        axes.set_axis_off()
    panels[0].set_ylabel("rank in its class, first = 1")
    figure.colorbar(points, ax=panels, label="weight of the class loss", aspect=30)
    return figure

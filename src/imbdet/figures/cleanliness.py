"""Cleanliness and soft label of the foreground anchors (Li et al. 2020), against what they are made of."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, inspected, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

MADE_OF = {"localization": "IoU of the predicted box", "score": "score of the own class"}
MADE = {"cleanliness": "cleanliness", "soft_label": "soft label"}
OWN = (*MADE_OF, *MADE)


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Candidates and evaluation (label) of each experiment of the list."""
    return inspected.inputs(layout, study.report.noisy_anchors)


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.inspected.read`, of foreground: localization to soft_label."""
    found = inspected.read(study, layout, study.report.noisy_anchors, OWN, needs=OWN)
    return found[found["set"] == "foreground"]


def caption(study: Study, data: "DataFrame") -> str:
    """Say what cleanliness is, and how far the labels spread."""
    labels = data["soft_label"]
    return (
        "Learning from noisy anchors (Li et al. 2020, arXiv 1912.05086): cleanliness of single foreground anchors "
        "(top) and the soft label that takes the place of 1 as their target (bottom), against the two numbers that "
        "both are made of: the IoU of the predicted box with its object, and the score of the object's class. In the "
        "paper the soft label is the cleanliness; in the official code cleanliness is relative to the image's means, "
        "and the soft label is its place between the least and the most clean anchor of the image, moved onto the "
        f"range from the mean IoU to 1. Half of the labels shown lie between {labels.quantile(0.25):.2f} and "
        f"{labels.quantile(0.75):.2f}. {captions.single(study)}"
        + captions.about(study, f"{len(data):,} anchors of {data['images'].iloc[0]:,} validation images, at random")
    )


def draw(data: "DataFrame") -> "Figure":
    """Both quantities, each against both numbers that they are made of; experiments by colour and marker."""
    figure, panels = style.canvas(4.6, 2, 2, sharex="col", sharey="row")
    experiments = inspected.experiments(data)
    for place, axes in enumerate(panels):
        x, y = list(MADE_OF)[place % 2], list(MADE)[place // 2]
        for (label, rows), colour, marker in zip(experiments, style.COLOURS[1:], "ox^sD+", strict=False):
            look: dict[str, Any] = {"color": colour, "marker": marker, "s": 12, "alpha": 0.7, "rasterized": True}
            axes.scatter(rows[x], rows[y], label=label, linewidths=0.7, **look)
        axes.set(xlabel=MADE_OF[x] if place // 2 else "", ylabel=MADE[y] if place % 2 == 0 else "")
        axes.set(xlim=(-0.03, 1.03))
        axes.set_ylim(bottom=0)
    panels[0].legend(loc="upper left", fontsize=8, markerscale=1.5)
    return figure

"""The weights that a network learns for the candidates (Cai et al. 2020), against loss and IoU."""

from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import captions, inspected, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

OWN = ("class_weight", "box_weight", "class_loss", "iou")
PANELS = (  # weight, against what
    ("class_weight", "class_loss"),
    ("class_weight", "iou"),
    ("box_weight", "class_loss"),
    ("box_weight", "iou"),
)
NAMES = {"class_weight": "class weight", "box_weight": "box weight", "class_loss": "class loss", "iou": "IoU"}
LEAST_LOSS = 1e-6  # of the logarithmic axis


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Candidates and evaluation (label) of each experiment of the list."""
    return inspected.inputs(layout, study.report.sample_weighting)


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.inspected.read`: both weights, class_loss, and iou (of foreground alone)."""
    return inspected.read(study, layout, study.report.sample_weighting, OWN, needs=OWN)


def caption(study: Study, data: "DataFrame") -> str:
    """Say what the weights are, and where they ended up."""
    foreground = data[data["set"] == "foreground"]
    ranges = [f"{NAMES[name]} {foreground[name].min():.2f} to {foreground[name].max():.2f}" for name in OWN[:2]]
    return (
        "Unified sample weighting (Cai et al. 2020, arXiv 2006.06568): the weights exp(-s) that the learned network "
        "gives to the class loss and the box loss of single candidates, against their class loss before weighting "
        "(logarithmic axis) and against the IoU of the predicted box with its object, which background has none of; a "
        "row for each experiment (grey line: weight 1). Where the study averages by group, a batch has one class "
        "weight for foreground and background, or one for each, and its points lie on a line. Foreground shown: "
        f"{', '.join(ranges)}. {captions.single(study)}"
        + captions.about(study, f"{len(data):,} candidates of {data['images'].iloc[0]:,} validation images, at random")
    )


def draw(data: "DataFrame") -> "Figure":
    """A row for each experiment; box weights are of foreground alone."""
    experiments = inspected.experiments(data)
    figure, panels, below = style.grid(4 * len(experiments), 4, 1.75)
    losses = max(LEAST_LOSS, data["class_loss"].min()) / 2, 1.5 * data["class_loss"].max()
    for row, (label, rows) in enumerate(experiments):
        for column, (weight, against) in enumerate(PANELS):
            axes = panels[4 * row + column]
            shown = rows if (weight, against) == PANELS[0] else rows[rows["set"] == "foreground"]
            axes.axhline(1, color=style.GREY, linewidth=0.8, zorder=0)
            style.scatter(axes, shown.assign(class_loss=shown["class_loss"].clip(lower=LEAST_LOSS)), against, weight)
            of_kind = rows.loc[rows[weight] > 0, weight]
            low, high = min(1, of_kind.min()), max(1, of_kind.max())
            axes.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
            axes.tick_params(labelleft=column % 2 == 0)  # the two panels of a kind of weight have one axis
            axes.set_title(NAMES[weight] if row == 0 else "", fontsize=9)
            if against == "class_loss":
                axes.set(xscale="log", xlim=losses)
            else:
                axes.set(xlim=(-0.03, 1.03), xticks=(0, 0.5, 1))
            axes.set_xlabel(NAMES[against] if row == len(experiments) - 1 else "")
        panels[4 * row].set_ylabel(f"{label}\nweight", fontsize=8)
    style.legend_in(below, panels[0], loc="upper left", ncols=2, markerscale=1.6)
    return figure

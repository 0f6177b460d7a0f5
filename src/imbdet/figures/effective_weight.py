"""What a candidate weighs under each method beside plain cross entropy, by how probable its label is."""

from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import captions, inspected, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

FLOOR, TOP = 1e-6, 30.0  # of the axis of weights; what weighs less, or nothing, stands on the floor
LEAST, MOST = 0.002, 0.9995  # of the axis of p_t
TICKS = {0.01: ".01", 0.1: ".1", 0.5: ".5", 0.9: ".9", 0.99: ".99", 0.999: ".999"}
COLUMNS, HEIGHT = 4, 1.5  # of the grid of panels; inches


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Candidates and evaluation of one experiment for each method."""
    return inspected.inputs(layout, study.report.methods)


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.inspected.read`: p_t and effective_weight."""
    return inspected.read(study, layout, study.report.methods, ("p_t", "effective_weight"))


def caption(study: Study, data: "DataFrame") -> str:
    """Say what a point is and what its place means."""
    return (
        f"{meaning()} Across: p_t, the probability that the detector gives to the truth (logistic axis); of background "
        "with a sigmoid for each class it is that of the class most likely to be a false alarm. "
        + captions.about(study, f"candidates of {data['images'].iloc[0]:,} validation images")
    )


def meaning() -> str:
    """Return what either figure of effective weights says of its points."""
    return (
        "Effective weight of single candidates under each method: the norm of the gradient with respect to a "
        "candidate's logits over that of plain cross entropy (grey line at 1) on the same logits, before the "
        f"normaliser; logarithmic axis, on whose lowest line stands what weighs {FLOOR:g} or less, 0 included. Of each "
        f"experiment up to {inspected.SHOWN} of either kind, drawn at random; of methods that select, half of them are "
        "of the selected where there are as many. Candidates are all anchors, or the proposals that the second stage "
        "trains on (where a method samples by itself, all of them). Each panel is another trained detector, so the "
        "points are not the same candidates."
    )


def draw(data: "DataFrame") -> "Figure":
    """A panel for each method."""
    figure, panels, below = style.grid(data["experiment"].nunique(), COLUMNS, HEIGHT)
    for axes, (label, rows) in zip(panels, inspected.experiments(data), strict=True):
        weights(axes, rows.assign(p_t=rows["p_t"].clip(LEAST, MOST)), "p_t", label)
        axes.set_xscale("logit", nonpositive="clip")
        axes.set_xticks(list(TICKS), list(TICKS.values()), fontsize=7.5)
        axes.minorticks_off()
        axes.set_xlim(LEAST / 1.5, 1 - (1 - MOST) / 1.5)
    finish(panels, below, "$p_t$")
    return figure


def weights(axes: "Axes", rows: "DataFrame", x: str, label: str) -> None:
    """Draw the effective weights of an experiment against ``x``."""
    axes.axhline(1, color=style.GREY, linewidth=0.8, zorder=0)
    style.scatter(axes, rows.assign(effective_weight=rows["effective_weight"].clip(FLOOR, TOP)), x, "effective_weight")
    axes.set(yscale="log", ylim=(FLOOR / 2.5, 1.5 * TOP))
    axes.set_yticks([FLOOR, 1e-4, 1e-2, 1], ["0", "$10^{-4}$", "$10^{-2}$", "1"])
    axes.minorticks_off()
    axes.set_title(label, fontsize=8)


def finish(panels: "list[Axes]", below: "Axes", x: str) -> None:
    """Name the axes where they have numbers, and put the legend below."""
    for place, axes in enumerate(panels):
        axes.set_xlabel(x if place + COLUMNS >= len(panels) else "")
        axes.set_ylabel("effective weight" if place % COLUMNS == 0 else "", fontsize=8)
    style.legend_in(below, panels[0], loc="upper left", ncols=2, markerscale=1.6)

"""Derivatives of cross entropy, focal loss and FL* with respect to the margin (Lin et al. 2017, figure 6)."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imbdet.config import Study
from imbdet.figures import analytic, curves, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

FOCAL_GAMMA = 2.0
STAR = ((2.0, 1.0), (4.0, 0.0))  # gamma, beta


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Nothing: the curves are equations."""
    return []


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.curves.frame`; the value is the derivative."""
    x_t = np.linspace(-10.0, 10.0, 401)
    values: dict[curves.Curve, analytic.Array] = {
        ("CE", None, None): analytic.cross_entropy_slope(x_t),
        ("FL", FOCAL_GAMMA, None): analytic.focal_loss_slope(x_t, FOCAL_GAMMA),
    }
    values |= {("FL*", gamma, beta): analytic.focal_star_slope(x_t, gamma, beta) for gamma, beta in STAR}
    return curves.frame(x_t, values)


def caption(study: Study, data: "DataFrame") -> str:
    """Say where focal loss differs in kind, with its minimum as plotted."""
    focal = data[data["loss"] == "FL"]
    lowest = focal.sort_values("value").iloc[0]
    return (
        "Derivatives with respect to the margin x_t = y x of cross entropy (CE), focal loss (FL) and FL*, without α; "
        "the derivative with respect to the logit x is y times these. All vanish where an example is well on its true "
        "side (right), FL and FL* sooner. CE and FL* are monotone between -1 and 0; FL is not: at "
        f"γ = {FOCAL_GAMMA:g} it has its minimum of {lowest['value']:.2f} at x_t = {lowest['x_t']:.1f}. Computed from "
        "the equations of Lin et al. 2017 (arXiv 1708.02002); no detector or data set is involved."
    )


def draw(data: "DataFrame") -> "Figure":
    """One curve for each loss."""
    figure, (axes,) = style.canvas(3.7)
    curves.plot(axes, data, style.unordered(2 + len(STAR)))
    axes.axhline(0, color=style.GREY, linewidth=0.8, zorder=0)
    axes.axhline(-1, color=style.GREY, linewidth=0.8, zorder=0)
    axes.set(
        xlim=(-10, 10), ylim=(-1.2, 0.05), xlabel="$x_t$, margin of the true side", ylabel="derivative of the loss"
    )
    axes.legend(loc="upper left", bbox_to_anchor=(0.62, 0.72))
    return figure

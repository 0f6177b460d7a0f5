"""Focal loss against the margin x_t at alpha 0.5."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imbdet.config import Study
from imbdet.figures import analytic, curves, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
ALPHA = 0.5


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Nothing: the curves are equations."""
    return []


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.curves.frame`; the value is the loss times alpha."""
    x_t = np.linspace(-6.0, 6.0, 241)
    return curves.frame(x_t, {("FL", gamma, None): ALPHA * analytic.focal_loss(x_t, gamma) for gamma in GAMMAS})


def caption(study: Study, data: "DataFrame") -> str:
    """Say what is drawn and what alpha does."""
    return (
        f"α-balanced focal loss α (1 - p_t)^γ softplus(-x_t) at α = {ALPHA} against the margin x_t = y x, the logit "
        f"counted towards the true side; p_t = sigmoid(x_t). At α = {ALPHA} both sides weigh the same, and γ = 0 is "
        "half of the unweighted cross entropy. A larger γ moves the curve's bend to the left: an example on the right "
        "side of the boundary (x_t > 0) soon costs almost nothing. Computed from the equations of Lin et al. 2017 "
        "(arXiv 1708.02002); no detector or data set is involved."
    )


def draw(data: "DataFrame") -> "Figure":
    """One curve for each gamma."""
    figure, (axes,) = style.canvas(3.7)
    curves.plot(axes, data, style.ordered(len(GAMMAS)))
    axes.set(xlim=(-6, 6), ylim=(0, 3), xlabel="$x_t$, margin of the true side", ylabel="loss (nats)")
    axes.legend(loc="upper right")
    return figure

"""Focal loss against the probability of the true side (Lin et al. 2017, figure 1)."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imbdet.config import Study
from imbdet.figures import analytic, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
TOP = 5.0


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Nothing: the curves are equations."""
    return []


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns gamma, p_t, loss."""
    p_t = np.linspace(0.005, 1.0, 200)
    return records.concat(
        records.frame({"gamma": gamma, "p_t": p, "loss": loss} for p, loss in zip(p_t, values, strict=True))
        for gamma, values in ((gamma, analytic.focal_loss_of_probability(p_t, gamma)) for gamma in GAMMAS)
    )


def caption(study: Study, data: "DataFrame") -> str:
    """Say what gamma does, in ratios read from the plotted data."""
    at = {gamma: float(np.interp(0.9, curve["p_t"], curve["loss"])) for gamma, curve in data.groupby("gamma")}
    return (
        "Focal loss FL = -(1 - p_t)^γ log p_t against the probability p_t that is given to the true side; γ = 0 is "
        "cross entropy. No example's loss is raised: those given more than one half (shaded) are reduced by the "
        f"largest factors, at p_t = 0.9 and γ = 2 by {at[0.0] / at[2.0]:.0f}. Computed from equation 4 of Lin et al. "
        "2017 (arXiv 1708.02002) without α; no detector or data set is involved."
    )


def draw(data: "DataFrame") -> "Figure":
    """One curve for each gamma, the well-classified half shaded."""
    figure, (axes,) = style.canvas(3.7)
    axes.axvspan(0.5, 1, color="#f1f1f1", zorder=0)
    curves = list(data.groupby("gamma"))
    for look, (gamma, curve) in zip(style.ordered(len(curves)), curves, strict=True):
        name = f"γ = {gamma:g}" + (" (cross entropy)" if gamma == 0 else "")
        axes.plot(curve["p_t"], curve["loss"], label=name, **look)
    axes.text(0.75, 0.56 * TOP, "well classified", ha="center", color=style.GREY)
    axes.set(xlim=(0, 1), ylim=(0, TOP), xlabel="$p_t$, probability of the true side", ylabel="loss (nats)")
    axes.legend(loc="upper right")
    return figure

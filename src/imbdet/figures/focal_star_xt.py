"""FL* against the margin x_t for several gamma and beta, beside cross entropy and focal loss (figure 5)."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imbdet.config import Study
from imbdet.figures import analytic, curves, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

SETTINGS = ((2.0, 0.0), (2.0, 1.0), (4.0, 0.0), (4.0, 2.0))  # gamma, beta; (2, 1) and (4, 0) are the paper's
FOCAL_GAMMA = 2.0


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Nothing: the curves are equations."""
    return []


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.curves.frame`; the value is the loss."""
    x_t = np.linspace(-5.0, 5.0, 201)
    values: dict[curves.Curve, analytic.Array] = {
        ("CE", None, None): analytic.cross_entropy(x_t),
        ("FL", FOCAL_GAMMA, None): analytic.focal_loss(x_t, FOCAL_GAMMA),
    }
    values |= {("FL*", gamma, beta): analytic.focal_star(x_t, gamma, beta) for gamma, beta in SETTINGS}
    return curves.frame(x_t, values)


def caption(study: Study, data: "DataFrame") -> str:
    """Say what is drawn and how the two parameters act."""
    return (
        "FL* = -log sigmoid(γ x_t + β) / γ against the margin x_t = y x, beside cross entropy (CE) and focal loss "
        "(FL). γ (above 0) makes the bend sharper and β moves it to the left; like focal loss, FL* costs almost "
        "nothing where an example is well on its true side. All are without α. The paper trains FL* with (γ, β) = "
        "(2, 1) and (4, 0). Computed from the equations of Lin et al. 2017 (arXiv 1708.02002); no detector or data set "
        "is involved."
    )


def draw(data: "DataFrame") -> "Figure":
    """CE, FL and one curve for each setting of FL*."""
    figure, (axes,) = style.canvas(3.7)
    curves.plot(axes, data, style.unordered(2 + len(SETTINGS)))
    axes.set(xlim=(-5, 5), ylim=(0, 4), xlabel="$x_t$, margin of the true side", ylabel="loss (nats)")
    axes.legend(loc="upper right")
    return figure

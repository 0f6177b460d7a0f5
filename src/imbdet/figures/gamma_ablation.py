"""The ablation of gamma: focal loss (Lin et al. 2017, table 1b) beside the measured one."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import comparison, style
from imbdet.figures.tables import Column
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

KEYS, OTHERS = ("loss", "gamma"), ("alpha",)


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The evaluation of each experiment of the ablation."""
    return comparison.inputs(study, layout, study.report.gamma)


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.comparison.data`."""
    return comparison.data(study, layout, study.report.gamma, "focal_loss_1b", KEYS)


def caption(study: Study, data: "DataFrame") -> str:
    """Say what either side was measured on."""
    return comparison.caption(study, data, "Focal loss by γ")


def table(data: "DataFrame") -> list[Column]:
    """Published and measured columns side by side."""
    return comparison.columns(data, KEYS, OTHERS)


def draw(data: "DataFrame") -> "Figure":
    """Published and measured AP by gamma in panels of their own: their axes have nothing to do with each other."""
    figure, panels = style.canvas(3.2, columns=2)
    gammas = sorted(data["gamma"].dropna().unique())
    for axes, side in zip(panels, ("published", "measured"), strict=True):
        rows = data.dropna(subset=["gamma", f"{side}_AP"])
        places = [gammas.index(gamma) for gamma in rows["gamma"]]
        for look, marker, metric in zip(style.unordered(3), "os^", comparison.METRICS, strict=True):
            axes.plot(places, rows[f"{side}_{metric}"], marker=marker, label=metric, **look)
        axes.set_xticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas])
        axes.set(xlim=(-0.4, len(gammas) - 0.6), xlabel="γ (not to scale)", ylabel="percent")
        axes.set_title("\n".join(textwrap.wrap(comparison.group(data, side), 44)), fontsize=9)
        axes.margins(y=0.15)
    panels[0].legend(loc="center left", bbox_to_anchor=(0, 0.62))
    return figure

"""The ablation of alpha: cross entropy (Lin et al. 2017, table 1a) beside the measured one."""

from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import comparison
from imbdet.figures.tables import Column
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

KEYS = ("loss", "alpha")


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The evaluation of each experiment of the ablation."""
    return comparison.inputs(study, layout, study.report.alpha)


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.comparison.data`."""
    return comparison.data(study, layout, study.report.alpha, "focal_loss_1a", KEYS)


def caption(study: Study, data: "DataFrame") -> str:
    """Say what either side was measured on."""
    return comparison.caption(study, data, "Cross entropy by α")


def table(data: "DataFrame") -> list[Column]:
    """Published and measured columns side by side."""
    return comparison.columns(data, KEYS)

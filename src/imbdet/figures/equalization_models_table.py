"""The Equalization Loss on several models (Tan et al. 2020, table 1, and its code) beside the measured runs."""

from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import gains
from imbdet.figures.tables import Column
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

PUBLISHED = ("AP", "AP_rare", "AP_common", "AP_frequent", "AP_box")


def inputs(study: Study, layout: Layout) -> list[Path]:
    """What :mod:`imbdet.figures.gains` reads of the experiments of the list."""
    return gains.inputs(study, layout, study.report.equalization)


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.comparison.data`."""
    return gains.data(study, layout, study.report.equalization, "equalization_models", "equalization", "EQL")


def caption(study: Study, data: "DataFrame") -> str:
    """Say what either side was measured on, and which AP to compare."""
    note = "Measured AP is of boxes and stands beside AP box."
    return gains.caption(study, data, "The Equalization Loss and its baselines by model", note)


def table(data: "DataFrame") -> list[Column]:
    """Published and measured columns side by side."""
    return gains.table(data, PUBLISHED)

"""Prime Sample Attention and its baselines (the authors' list of results) beside the measured runs."""

from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import gains
from imbdet.figures.tables import Column
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

PUBLISHED = ("AP",)


def inputs(study: Study, layout: Layout) -> list[Path]:
    """What :mod:`imbdet.figures.gains` reads of the experiments of the list."""
    return gains.inputs(study, layout, study.report.pisa_gain)


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.comparison.data`."""
    return gains.data(study, layout, study.report.pisa_gain, "pisa", "pisa", "PISA")


def caption(study: Study, data: "DataFrame") -> str:
    """Say what either side was measured on."""
    return gains.caption(study, data, "Prime Sample Attention and its baselines")


def table(data: "DataFrame") -> list[Column]:
    """Published and measured columns side by side."""
    return gains.table(data, PUBLISHED)

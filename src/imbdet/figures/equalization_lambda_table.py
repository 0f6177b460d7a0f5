"""The Equalization Loss by how much of the tail it spares (Tan et al. 2020, table 2), beside the measured runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import comparison, records
from imbdet.figures.tables import Column
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

KEYS, OTHERS = ("tail_ratio",), ("threshold",)
PUBLISHED = ("AP", "AP_rare", "AP_common", "AP_frequent", "AP_box")


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The evaluation of each experiment of the list."""
    return comparison.inputs(study, layout, study.report.equalization_lambda)


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.comparison.data`."""
    return comparison.data(study, layout, study.report.equalization_lambda, "equalization_lambda", KEYS, _describe)


def _describe(record: records.Record) -> dict[str, Any]:
    """Without a tail, the loss is sigmoid cross entropy."""
    method = record["method"]
    if method["name"] == "cross_entropy":
        return {"tail_ratio": 0.0, "threshold": 0.0}
    return {key: method[key] for key in ("tail_ratio", "threshold")}


def caption(study: Study, data: "DataFrame") -> str:
    """Say what either side was measured on, and what the tail ratio is."""
    note = (
        "Tail ratio: the share of the images, counted for each class, that the spared classes hold; measured, at most "
        "that much. Threshold: λ, the share of the images below which a class is spared; by number, it means something "
        "for its own data set alone. Measured AP is of boxes and stands beside AP box."
    )
    return comparison.caption(study, data, "The Equalization Loss by tail ratio", note)


def table(data: "DataFrame") -> list[Column]:
    """Published and measured columns side by side."""
    return comparison.columns(data, KEYS, OTHERS, published=PUBLISHED)

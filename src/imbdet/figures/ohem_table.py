"""OHEM beside focal loss (Lin et al. 2017, table 1d) and the measured runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import comparison, records
from imbdet.figures.tables import Column
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

KEYS = ("method", "batch", "nms_iou")


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The evaluation of each experiment of the list."""
    return comparison.inputs(study, layout, study.report.ohem)


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.comparison.data`."""
    return comparison.data(study, layout, study.report.ohem, "focal_loss_1d", KEYS, _describe)


def _describe(record: records.Record) -> dict[str, Any]:
    method = record["method"]
    if method["name"] in ("ohem", "ohem_dense"):
        name = "OHEM 1:3" if method.get("one_to_three") else "OHEM"
        return {"method": name, "batch": method["per_image"], "nms_iou": method["nms_iou"]}
    return {"method": comparison.loss_and_parameters(method)["loss"], "batch": None, "nms_iou": None}


def caption(study: Study, data: "DataFrame") -> str:
    """Say what either side was measured on, and what a batch is."""
    note = (
        "Batch: how many anchors or proposals are trained on; measured, of each image, which the paper leaves open, as "
        "it does what NMS compares; 1:3 takes three negatives for each positive."
    )
    return comparison.caption(study, data, "OHEM and focal loss", note)


def table(data: "DataFrame") -> list[Column]:
    """Published and measured columns side by side."""
    return comparison.columns(data, KEYS)

"""A method and its baseline on several detectors, as the method's authors list them, beside the measured pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, comparison, records
from imbdet.figures.tables import Column
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

KEYS = ("model", "backbone", "schedule", "method")
BASELINES = ("cross_entropy", "focal")


def inputs(study: Study, layout: Layout, experiments: Sequence[str]) -> list[Path]:
    """The evaluation of each experiment with each seed, and the record of a training, which tells its backbone."""
    return [*comparison.inputs(study, layout, experiments), *(layout.training(name) for name in experiments)]


def data(
    study: Study, layout: Layout, experiments: Sequence[str], table: str, method: str, published_name: str
) -> "DataFrame":
    """Columns of :func:`imbdet.figures.comparison.data`; the plain losses are the baselines of ``method``."""
    known = dict.fromkeys(BASELINES, "baseline") | {method: published_name}

    def describe(record: records.Record) -> dict[str, Any]:
        detector = records.read_json(layout.training(record["experiment"]))["config"]["detector"]
        backbone = detector["backbone"]  # older records have its name alone
        return {
            "model": captions.DETECTORS[detector["name"]],
            "backbone": backbone["name"] if isinstance(backbone, dict) else backbone,
            "schedule": "own",
            "method": known.get(record["method"]["name"], record["method"]["name"]),
        }

    keys = [key for key in KEYS if key in comparison.published(table)]
    return comparison.data(study, layout, experiments, table, keys, describe)


def caption(study: Study, data: "DataFrame", what: str, note: str = "") -> str:
    """Say what either side was measured on, and that a measured pair stands below the published ones."""
    told = "Measured rows have this study's own backbone and schedule, so that none is a published one's equal."
    return comparison.caption(study, data, what, f"{told} {note}".rstrip())


def table(data: "DataFrame", published: Sequence[str]) -> list[Column]:
    """Published and measured columns side by side."""
    return comparison.columns(data, [key for key in KEYS if key in data], published=published)

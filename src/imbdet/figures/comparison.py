"""What a paper published beside what a study measured, joined by the parameters of the method."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, records
from imbdet.figures.tables import Column, numbers, text
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

PUBLISHED = Path(__file__).parent / "published"
METRICS = ("AP", "AP50", "AP75")
PARAMETERS = ("alpha", "gamma", "beta")
_LOSSES = {"cross_entropy": "CE", "focal": "FL", "focal_star": "FL*"}
_SIGNS = {"loss": "loss", "alpha": "α", "gamma": "γ", "beta": "β"}


def published(table: str) -> "DataFrame":
    """Return the rows of a published table, e.g. ``focal_loss_1b``; each carries its paper, table, data and setting."""
    return records.read_csv(PUBLISHED / f"{table}.csv", ("paper", "table", "data", "setting"))


def inputs(layout: Layout, experiments: Sequence[str]) -> list[Path]:
    """The evaluation of each experiment; the published numbers are part of the code."""
    return [layout.evaluation(name) for name in experiments]


def data(layout: Layout, experiments: Sequence[str], table: str, keys: Sequence[str]) -> "DataFrame":
    """Return both sides joined on ``keys`` (of loss, alpha, gamma, beta); a row that one side lacks keeps its blanks.

    Columns: the keys; published_* (table, data, setting, AP, AP50, AP75 in percent and parameters that are no key);
    measured_* likewise with experiment, label, data and images.
    """
    sides = {"published": published(table), "measured": records.frame(_measured(layout, name) for name in experiments)}
    theirs, ours = (_prefixed(side, name, keys) for name, side in sides.items())
    return theirs.merge(ours, how="outer", on=list(keys)).sort_values(list(keys), kind="stable")


def _prefixed(side: "DataFrame", name: str, keys: Sequence[str]) -> "DataFrame":
    """One side with numbers as floats (an empty column would otherwise not join) and its name before all but keys."""
    numeric = {column: float for column in (*PARAMETERS, *METRICS) if column in side}
    return side.astype(numeric).rename(columns={c: f"{name}_{c}" for c in side if c not in keys})


def _measured(layout: Layout, name: str) -> dict[str, Any]:
    """Label, parameters and metrics (percent) of an experiment. Focal loss at gamma 0 is cross entropy."""
    record = records.read_json(layout.evaluation(name))
    method = record["method"]
    loss = _LOSSES.get(method["name"], method["name"])
    parameters = {"gamma": 0.0} if loss == "CE" else {}
    parameters |= {key: method[key] for key in PARAMETERS if key in method}
    kept = {"experiment": name, **{key: record[key] for key in ("label", "data", "images")}}
    metrics = {metric: records.percent(record[metric]) for metric in METRICS}
    return {**kept, "loss": "CE" if parameters.get("gamma") == 0 else loss, **parameters, **metrics}


def caption(study: Study, data: "DataFrame", what: str) -> str:
    """Say what each side was measured on, and that the two are no competition."""
    theirs = data.dropna(subset="published_table").iloc[0]
    ours = data.dropna(subset="measured_experiment").iloc[0]
    elsewhere = "" if study.data.source == captions.COCO else "on other data, "
    return (
        f"{what}, published beside measured, in percent. Published: {theirs['published_paper']}, table "
        f"{theirs['published_table']}, {theirs['published_data']}, {theirs['published_setting']}. Measured: "
        f"{elsewhere}with this study's detector and schedule, one run each: compare the order and the shape of the two "
        "sides, not their levels. A dash stands where a side has no such row or a method no such parameter. "
        + captions.about(study, f"measured on {ours['measured_images']:,.0f} validation images")
    )


def columns(data: "DataFrame", keys: Sequence[str], others: Sequence[str] = ()) -> list[Column]:
    """Return the keys, then parameters that are no key and AP, AP50, AP75 of either side, each with its data set."""
    labels = Column(group(data, "measured"), "experiment", text(data["measured_label"]))
    theirs, ours = _side(data, "published", others), _side(data, "measured", others)
    return [*(Column("", _SIGNS[key], _cells(data, key)) for key in keys), *theirs, labels, *ours]


def _side(data: "DataFrame", side: str, others: Sequence[str]) -> list[Column]:
    name = group(data, side)
    parameters = [Column(name, _SIGNS[key], _cells(data, f"{side}_{key}")) for key in others]
    return parameters + [Column(name, metric, numbers(data[f"{side}_{metric}"], ".1f")) for metric in METRICS]


def group(data: "DataFrame", side: str) -> str:
    """Return the name of a side with its data set."""
    return f"{side}: {data[f'{side}_data'].dropna().iloc[0]}"


def _cells(data: "DataFrame", key: str) -> list[str]:
    return text(data[key]) if key == "loss" else numbers(data[key], "g")

"""What a paper published beside what a study measured, joined by the parameters of the method."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, records
from imbdet.figures.tables import Column, numbers, text
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

PUBLISHED = Path(__file__).parent / "published"
SOURCE = ("paper", "table", "data", "setting")
METRICS = ("AP", "AP50", "AP75")
_LOSSES = {"cross_entropy": "CE", "focal": "FL", "focal_star": "FL*"}
_SIGNS = {"alpha": "α", "gamma": "γ", "beta": "β", "nms_iou": "NMS IoU"}  # of parameters; others are what they are


def loss_and_parameters(method: Mapping[str, Any]) -> dict[str, Any]:
    """How the tables of the focal-loss paper name a method. Focal loss at gamma 0 is cross entropy."""
    loss = _LOSSES.get(method["name"], method["name"])
    parameters = {"gamma": 0.0} if loss == "CE" else {}
    parameters |= {key: method[key] for key in ("alpha", "gamma", "beta") if key in method}
    return {"loss": "CE" if parameters.get("gamma") == 0 else loss, **parameters}


def published(table: str) -> "DataFrame":
    """Return the rows of a published table, e.g. ``focal_loss_1b``; each carries its paper, table, data and setting."""
    return records.read_csv(PUBLISHED / f"{table}.csv", SOURCE)


def inputs(study: Study, layout: Layout, experiments: Sequence[str]) -> list[Path]:
    """The evaluation of each experiment with each seed; the published numbers are part of the code."""
    return [layout.at_seed(seed).evaluation(name) for name in experiments for seed in study.seeds]


def data(
    study: Study,
    layout: Layout,
    experiments: Sequence[str],
    table: str,
    keys: Sequence[str],
    describe: Callable[[records.Record], Mapping[str, Any]] = lambda record: loss_and_parameters(record["method"]),
) -> "DataFrame":
    """Return both sides joined on ``keys``; a row that one side lacks keeps its blanks.

    ``describe`` gives an experiment, from its evaluation, the words and parameters of the published table, keys
    included.

    Columns: the keys; published_* (all columns of its table that are no key, metrics in percent); measured_* with
    experiment, label, detector, data, images, what ``describe`` gives beside keys, and AP, AP50, AP75 in percent, which
    are means over the seeds.
    """
    measured = records.frame(_measured(study, layout, name, describe) for name in experiments)
    measured = measured.reindex(columns=list(dict.fromkeys([*measured, *keys])))  # of which perhaps no method has one
    theirs, ours = (
        _prefixed(side, name, keys) for name, side in (("published", published(table)), ("measured", measured))
    )
    return theirs.merge(ours, how="outer", on=list(keys)).sort_values(list(keys), kind="stable")


def _prefixed(side: "DataFrame", name: str, keys: Sequence[str]) -> "DataFrame":
    """One side with numbers as floats (an empty column would otherwise not join) and its name before all but keys."""
    columns = [column for column in side if column not in SOURCE]
    numeric = {c: float for c in columns if all(isinstance(value, int | float) for value in side[c])}
    return side.astype(numeric).rename(columns={c: f"{name}_{c}" for c in side if c not in keys})


def _measured(
    study: Study, layout: Layout, name: str, describe: Callable[[records.Record], Mapping[str, Any]]
) -> dict[str, Any]:
    """Label, parameters and metrics (percent, the mean over the seeds) of an experiment."""
    runs = records.evaluations(study, layout, name)
    kept = {**records.named(layout, name), **{key: runs[0][key] for key in ("data", "images")}}
    metrics = {metric: records.mean_percent(runs, metric) for metric in METRICS}
    return {**kept, **describe(runs[0]), **metrics}


def caption(study: Study, data: "DataFrame", what: str, note: str = "") -> str:
    """Say what each side was measured on, and that the two are no competition; ``note`` says more of the columns."""
    sources = data.dropna(subset="published_table")[[f"published_{key}" for key in SOURCE]].drop_duplicates()
    theirs = "; ".join(f"{paper}, table {table}, {on}, {setting}" for paper, table, on, setting in sources.to_numpy())
    ours = data.dropna(subset="measured_experiment").iloc[0]
    elsewhere = "" if captions.is_coco(study) else "on other data, "
    runs = "one run each" if len(study.seeds) == 1 else f"means of {len(study.seeds)} runs"
    detector = "detector" if data["measured_detector"].nunique() == 1 else "detectors"
    return (
        f"{what}, published beside measured, in percent. Published: {theirs}. Measured: "
        f"{elsewhere}with this study's {detector} and schedule, {runs}: compare the order and the shape of the "
        "two sides, not their levels. A dash stands where a side has no such row or a method no such parameter. "
        + (f"{note} " if note else "")
        + captions.about(study, f"measured on {ours['measured_images']:,.0f} validation images", study.seeds)
    )


def columns(
    data: "DataFrame",
    keys: Sequence[str],
    others: Sequence[str] = (),
    published: Sequence[str] = METRICS,
    measured: Sequence[str] = METRICS,
) -> list[Column]:
    """Return the keys, then parameters that are no key and the metrics of either side, each with its data set."""
    labels = Column(group(data, "measured"), "experiment", text(data["measured_label"]))
    theirs, ours = _side(data, "published", others, published), _side(data, "measured", others, measured)
    return [*(Column("", _sign(key), _cells(data, key)) for key in keys), *theirs, labels, *ours]


def _side(data: "DataFrame", side: str, others: Sequence[str], metrics: Sequence[str]) -> list[Column]:
    name = group(data, side)
    parameters = [Column(name, _sign(key), _cells(data, f"{side}_{key}")) for key in others]
    return parameters + [Column(name, _sign(metric), numbers(data[f"{side}_{metric}"], ".1f")) for metric in metrics]


def _sign(key: str) -> str:
    return _SIGNS.get(key, key.replace("_", " "))


def group(data: "DataFrame", side: str) -> str:
    """Return the name of a side with its data set."""
    return f"{side}: {data[f'{side}_data'].dropna().iloc[0]}"


def _cells(data: "DataFrame", key: str) -> list[str]:
    return numbers(data[key], "g") if data[key].dtype == float else text(data[key])

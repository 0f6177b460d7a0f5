"""What each method gains as one property of the generated data changes and everything else stays."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study, condition_name
from imbdet.figures import captions, records, style
from imbdet.figures.tables import Column, estimates, numbers, text
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

METRIC = "AP"
ENDS = ("value", "low", "high")
COLUMNS = 2  # properties beside each other
LEGEND = 0.6  # inches
HEIGHTS = (2.3, 1.2)  # inches, of a panel of gains and of the one below it with the baselines' own AP
LOGARITHMIC_FROM = 4.0  # largest over smallest value of a property
BASELINES = style.COLOURS[0]


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The intervals of every condition."""
    return [Layout.of(condition).intervals for condition in study.conditions.values()]


def data(study: Study, layout: Layout) -> "DataFrame":
    """A row for each property, value of it and method compared there, in the order of the study.

    Columns axis, property, x, base (whether the data there are those that all properties share); experiment, label,
    baseline, baseline_label; gain, low, high (the paired difference in points of AP, and its interval); baseline_AP,
    baseline_low, baseline_high (percent); p_holm; images, seeds, resamples, over.
    """
    return records.frame(row for axis in study.sweep for row in _axis(study, axis))


def _axis(study: Study, name: str) -> Iterator[dict[str, Any]]:
    axis, conditions = study.sweep[name], study.conditions
    for x, changes in sorted(axis.points.items()):
        record = records.read_json(Layout.of(conditions[condition_name(name, x, changes)]).intervals)
        about = {"axis": name, "property": axis.label, "x": x, "base": not changes}
        for difference in record["differences"]:
            if difference["metric"] == METRIC and difference["experiment"] in axis.experiments:
                yield about | _compared(record, difference)


def _compared(record: records.Record, difference: records.Record) -> dict[str, Any]:
    """One method beside its baseline."""
    baseline = record["experiments"][difference["baseline"]]
    gain, low, high = (records.percent(difference[end]) for end in ENDS)
    own, own_low, own_high = (records.percent(baseline[METRIC][end]) for end in ENDS)
    return {
        **{key: difference[key] for key in ("experiment", "label", "baseline")},
        "baseline_label": baseline["label"],
        **{"gain": gain, "low": low, "high": high, "p_holm": difference["p_holm"]},
        **{"baseline_AP": own, "baseline_low": own_low, "baseline_high": own_high},
        **{key: record[key] for key in ("images", "resamples", "over")},
        "seeds": len(record["seeds"]),
    }


def changes(data: "DataFrame") -> "DataFrame":
    """By how much each method's gain changes from the least value of a property to the greatest, with an interval.

    The intervals of the two gains are joined by the method of variance estimates recovery (Zou and Donner, Statistics
    in Medicine 27, 2008). It takes them for independent, though runs of one seed start from the same weights, and
    noise leaves the validation images as they are: what gains have in common makes these intervals too wide.

    Columns axis, property, label, baseline_label, first and last (the values of the property), first_gain, last_gain,
    change, low, high (points of AP).
    """
    rows = []
    for _, line in data.groupby(["axis", "experiment", "baseline"], sort=False):
        first, last = line.iloc[0], line.iloc[-1]
        change = last["gain"] - first["gain"]
        below = math.hypot(last["gain"] - last["low"], first["high"] - first["gain"])
        above = math.hypot(last["high"] - last["gain"], first["gain"] - first["low"])
        about = {key: first[key] for key in ("axis", "property", "label", "baseline_label")}
        ends = {"first": first["x"], "last": last["x"], "first_gain": first["gain"], "last_gain": last["gain"]}
        rows.append({**about, **ends, "change": change, "low": change - below, "high": change + above})
    return records.frame(rows)


def answer(data: "DataFrame") -> str:
    """In words: which comparisons are more than chance, and which gains change along their property."""
    compared = data[~data["base"] | ~data.duplicated(["base", "experiment", "baseline"])]  # all axes share the base
    sure = compared[compared["p_holm"] < records.SIGNIFICANT]
    named = (
        f"{row['label']} − {row['baseline_label']} with "
        + ("what all properties share" if row["base"] else f"{row['x']:g} ({row['property']})")
        for _, row in sure.iterrows()
    )
    found = changes(data)
    moved = found[(found["low"] > 0) | (found["high"] < 0)]
    steps = (
        f"{row['label']} − {row['baseline_label']} {'gains' if row['change'] > 0 else 'loses'} "
        f"{abs(row['change']):.1f} points from {row['first']:g} to {row['last']:g} ({row['property']})"
        for _, row in moved.iterrows()
    )
    return (
        f"{len(sure)} of {len(compared)} comparisons {'is' if len(sure) == 1 else 'are'} more than chance explains, "
        f"after Holm's correction for the methods compared on the same data{': ' if len(sure) else ''}"
        f"{'; '.join(named)}. Of {len(found)} changes of a gain along its property, {len(moved)} "
        f"{'has an interval' if len(moved) == 1 else 'have intervals'} without zero, not corrected for being "
        f"{len(found)}{': ' if len(moved) else ''}{'; '.join(steps)}."
    )


def caption(study: Study, data: "DataFrame") -> str:
    """Say what a band is, what the pairs are, and how small all of this is."""
    first = data.iloc[0]
    drawn = captions.RESAMPLED[first["over"]]
    steps = " or ".join(f"{count:,}" for count in sorted({study.training(name).steps for name in study.experiments}))
    return (
        "What each method gains over its baseline, in points of AP, as one property of the data changes and the others "
        "stay (upper panels), and the baselines' own AP (lower panels). With more objects there is also more to learn "
        "from; validation data change likewise, but for noise, which they never have. Each pair has the same data, "
        f"seeds, initial weights and order of images; a point is the mean of {first['seeds']} seeds. Bands are 95 % "
        f"intervals of {first['resamples']:,} resamples of {drawn}; a full point differs from its baseline at 5 % "
        "after Holm's correction for the methods compared on these data; of hollow ones the study cannot tell. The "
        "dotted line marks the data that all properties share. "
        f"A pilot: generated images, a small network, trainings of {steps} steps, so that a method that learns more "
        "slowly is seen behind, whatever it would reach. "
        + captions.about(study, f"measured on {first['images']:,} validation images of each condition", study.seeds)
    )


def _pairs(data: "DataFrame") -> "dict[str, DataFrame]":
    """The rows of each method, named with its baseline, in the order of the study."""
    named = data["label"] + " − " + data["baseline_label"]
    return {str(name): data[named == name] for name in named.unique()}


def table(data: "DataFrame") -> list[Column]:
    """A row for each property and value, a column for each method: its gain and the interval."""
    places = data.drop_duplicates(["axis", "x"])
    columns = [Column("", "property", text(places["property"])), Column("", "value", numbers(places["x"], "g"))]
    for name, rows in _pairs(data).items():
        beside = places[["axis", "x"]].merge(rows, how="left")
        columns.append(Column("", name, estimates(beside["gain"], beside["low"], beside["high"], "+.1f")))
    return columns


def draw(data: "DataFrame") -> "Figure":
    """Two panels for each property, gains above the baselines' own AP, and a legend that all share."""
    properties = [rows for _, rows in data.groupby("axis", sort=False)]
    columns = min(COLUMNS, len(properties))
    heights = [*HEIGHTS] * -(-len(properties) // columns) + [LEGEND]
    figure, panels = style.canvas(sum(heights), len(heights), columns, height_ratios=heights)
    methods = list(_pairs(data))
    looks = dict(zip(methods, style.unordered(1 + len(methods))[1:], strict=True))  # the first is the baselines'
    for place, rows in enumerate(properties):
        upper = 2 * columns * (place // columns) + place % columns
        _gains(panels[upper], rows, looks)
        _baselines(panels[upper + columns], rows)
    for axes in panels:
        if not axes.has_data():
            axes.set_axis_off()
    _legend(panels, columns)
    return figure


def _gains(axes: "Axes", rows: "DataFrame", looks: dict[str, dict[str, Any]]) -> None:
    """A line and a band for each method; points that may be chance are hollow."""
    axes.axhline(0, color=style.GREY, linewidth=1)
    for name, line in _pairs(rows).items():
        _line(axes, line, ("gain", "low", "high"), name, **looks[name])
        told = line[line["p_holm"] < records.SIGNIFICANT]
        axes.plot(told["x"], told["gain"], "o", markersize=4, color=looks[name]["color"])
    _scale(axes, rows)
    axes.tick_params(labelbottom=False)
    axes.set_ylabel("gain, points of AP")


def _baselines(axes: "Axes", rows: "DataFrame") -> None:
    names = dict(zip(rows["baseline"], rows["baseline_label"], strict=True))
    for (key, name), dashes in zip(names.items(), style.DASHES, strict=False):
        line = rows[rows["baseline"] == key].drop_duplicates("x")
        _line(axes, line, ("baseline_AP", "baseline_low", "baseline_high"), name, color=BASELINES, linestyle=dashes)
    _scale(axes, rows)
    axes.set_ylim(bottom=0)
    axes.set(xlabel=rows["property"].iloc[0], ylabel="AP, percent")


def _line(axes: "Axes", line: "DataFrame", keys: tuple[str, str, str], label: str, color: str, linestyle: Any) -> None:
    """One curve with hollow points and its band."""
    value, low, high = (line[key] for key in keys)
    axes.fill_between(line["x"], low, high, color=color, alpha=0.13, linewidth=0)
    points: Any = {"marker": "o", "markersize": 4, "markerfacecolor": "white"}
    axes.plot(line["x"], value, linestyle=linestyle, color=color, label=label, **points)


def _scale(axes: "Axes", rows: "DataFrame") -> None:
    """Ticks at the values that the property has, and the mark of the data that all properties share."""
    values = sorted(rows["x"].unique())
    if values[0] > 0 and values[-1] / values[0] >= LOGARITHMIC_FROM:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(values, [f"{x:g}" for x in values])
    for x in rows.loc[rows["base"], "x"].unique():
        axes.axvline(x, color=style.GREY, linewidth=1, linestyle=":")


def _legend(panels: "list[Axes]", columns: int) -> None:
    """One entry for each name that any panel has, in the last row: first the methods, then the baselines."""
    named = {str(line.get_label()): line for axes in panels for line in axes.lines}
    lines = [line for name, line in named.items() if not name.startswith("_")]
    lines.sort(key=lambda line: line.get_color() == BASELINES)
    legend = panels[-columns].legend(handles=lines, loc="upper left", ncols=3, fontsize=8)
    legend.set_in_layout(False)  # it reaches over the empty panel beside it

"""Foreground and background on their way through a two-stage detector, beside the anchors of a one-stage detector."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

KINDS = ("foreground", "background", "ignored")
WIDTH = 0.27  # of a bar


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The funnel, its experiment's evaluation (label) and, where the study has a one-stage detector, its census."""
    one_stage = records.first_detector(study, "retinanet")
    census = [layout.census(one_stage)] if one_stage else []
    return [layout.funnel, layout.evaluation(study.report.funnel[0]), *census]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns detector, station, foreground, background, ignored (of a mean image), label of the experiment, images."""
    record, label = records.read_json(layout.funnel), records.named(layout, study.report.funnel[0])["label"]
    two_stage = study.experiments[study.report.funnel[0]].detector
    rows = []
    one_stage = records.first_detector(study, "retinanet")
    if one_stage:
        levels = records.read_json(layout.census(one_stage))["levels"]
        sums = {kind: sum(level[kind] for level in levels) for kind in KINDS}
        rows.append({"detector": one_stage, "station": "anchors", **sums})
    rows += [
        {"detector": two_stage, "station": station["name"], **{kind: station[kind] for kind in KINDS}}
        for station in record["stations"]
    ]
    return records.frame(rows).assign(label=label, images=record["images"])


def caption(study: Study, data: "DataFrame") -> str:
    """Say what the ratio becomes from station to station."""
    two_stage = data["detector"] == data["detector"].iloc[-1]
    ratios = [f"{row['station']} {_ratio(row)}" for _, row in data[two_stage].iterrows()]
    beside = [
        f"; the one-stage detector trains on its anchors at {_ratio(row)}" for _, row in data[~two_stage].iterrows()
    ]
    return (
        "How two stages deal with imbalance: foreground, background and ignored candidates of a mean image (left, "
        "logarithmic axis) and background over foreground (right, logarithmic axis) on the way from all anchors over "
        "RPN's sample of them and its proposals to the sample that the second stage trains on, in a trained detector "
        f"({data['label'].iloc[0]}). Background for each foreground candidate: {', '.join(ratios)}{''.join(beside)}. "
        "Each station is counted by its own assignment of foreground; the second stage's sample may hold the ground "
        "truth as well, as in training. "
        + captions.about(study, f"counted on {data['images'].iloc[0]:,} training images")
    )


def _ratio(row: "Series[Any]") -> str:
    return f"{row['background'] / row['foreground']:,.3g}" if row["foreground"] else "no foreground"


def draw(data: "DataFrame") -> "Figure":
    """Counts at each station, and how much background there is for each foreground candidate."""
    figure, (left, right) = style.canvas(3.5, columns=2, width_ratios=(1.45, 1))
    last = data["detector"].iloc[-1]
    # The one-stage detector stands apart from the stations, which belong together.
    places = [place + (0.0 if detector == last else -0.35) for place, detector in enumerate(data["detector"])]
    names = [
        station.replace(" ", "\n") if detector == last else f"{station},\none stage"
        for station, detector in zip(data["station"], data["detector"], strict=True)
    ]
    _counts(left, data, places)
    _ratios(right, data, places)
    for axes in (left, right):
        axes.set_xticks(places, names, fontsize=8)
        axes.set_yscale("log")
        axes.grid(False, axis="x")
    return figure


def _counts(axes: "Axes", data: "DataFrame", places: list[float]) -> None:
    for index, kind in enumerate(KINDS):
        look: dict[str, Any] = {"color": style.COLOUR_OF[kind], "hatch": style.HATCHES[index], "edgecolor": "white"}
        bars = axes.bar([place + (index - 1) * WIDTH for place in places], data[kind], WIDTH, label=kind, **look)
        axes.bar_label(bars, [style.short(count) for count in data[kind]], padding=1.5, fontsize=6.5)
    counts = data[list(KINDS)].to_numpy()
    axes.set(ylabel="candidates in a mean image", title="candidates")
    axes.set_ylim(counts[counts > 0].min() / 3, 30 * counts.max())
    axes.legend(loc="upper right", ncols=3, columnspacing=1.0, handlelength=1.6, fontsize=8)


def _ratios(axes: "Axes", data: "DataFrame", places: list[float]) -> None:
    ratio = data["background"] / data["foreground"].where(data["foreground"] > 0)
    bars = axes.bar(places, ratio, 0.6, color=style.COLOURS[3])
    axes.bar_label(bars, [_ratio(row) for _, row in data.iterrows()], padding=1.5, fontsize=8)
    axes.axhline(1, color=style.GREY, linewidth=0.8)
    axes.set(ylabel="background / foreground", title="background for each foreground")
    axes.set_ylim(min(0.5, ratio.min() / 2), 4 * ratio.max())

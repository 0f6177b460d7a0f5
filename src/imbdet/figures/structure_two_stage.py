"""The two-stage detector of a study as it was built: backbone, pyramid, region proposals and second stage."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import network
from imbdet.figures.network import HEADS, PYRAMID, WIDTHS
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

KIND = "faster_rcnn"
TALL = {"rpn": 0.78, "roi": 0.95}  # of the boxes, in rows


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The structure, and the manifest (the number of images)."""
    return network.inputs(study, layout, KIND)


def data(study: Study, layout: Layout) -> "DataFrame":
    """A row for each level of the backbone (``part`` backbone), of the pyramid (level) and for each head."""
    return network.data(study, layout, KIND)


def caption(study: Study, data: "DataFrame") -> str:
    """Say what was built, and which levels feed which stage."""
    levels = _levels(data)
    heads = (
        "All levels share the region proposal network (RPN), which says of every anchor how likely it holds an object "
        f"and moves it; the second stage looks at each proposal in the one of {levels.iloc[0]['name']} to "
        f"{levels.iloc[-1]['name']} that suits its size (dashed), and gives a logit and four offsets for each class."
    )
    return network.caption(study, data, heads)


def _levels(data: "DataFrame") -> "DataFrame":
    """The levels that proposals are pooled from: those with a stage of the backbone beside them."""
    highest = data.loc[data["part"] == "backbone", "stride"].max()
    levels: DataFrame = data[(data["part"] == "level") & (data["stride"] <= highest)]
    return levels


def draw(data: "DataFrame") -> "Figure":
    """Backbone bottom-up, pyramid beside it level by level, RPN and second stage on the right."""
    figure, axes, rows = network.trunk(data)
    strides = data.loc[data["part"] == "level", "stride"]
    _heads(
        axes,
        {head["name"]: head for _, head in data[data["part"] == "head"].iterrows()},
        [rows[s] for s in strides],
        [rows[s] for s in _levels(data)["stride"]],
    )
    return figure


def _heads(axes: "Axes", heads: "dict[str, Series[Any]]", rows: list[float], pooled: list[float]) -> None:
    """RPN above, from all levels; the second stage below, from its levels and RPN's proposals."""
    edge, middle = PYRAMID + WIDTHS[1], (min(rows) + max(rows)) / 2
    upper, lower, shift = middle + 1.0, middle - 0.75, 0.14
    network.bracket(axes, [row + shift for row in rows], edge + 0.3)
    network.bracket(axes, [row - shift for row in pooled], edge + 0.55, linestyle="--")
    for name, words, row, start in (
        ("rpn", _proposals(heads["rpn"]), upper, edge + 0.3),
        ("roi", _second(heads["roi"]), lower, edge + 0.55),
    ):
        network.box(axes, (HEADS, row), (WIDTHS[2], TALL[name]), network.FILLS["head"], words)
        network.arrow(axes, (start, row), (HEADS, row))
    centre = HEADS + WIDTHS[2] / 2
    network.arrow(axes, (centre, upper - TALL["rpn"] / 2), (centre, lower + TALL["roi"] / 2))
    axes.text(centre + 0.1, (upper + lower) / 2 + 0.05, "proposals", va="center", fontsize=7.5)
    axes.text(centre, upper + 0.6, "two stages", ha="center", weight="bold")


def _proposals(head: "Series[Any]") -> str:
    return (
        f"region proposals (RPN)\n{head['convs']:.0f} x (conv 3 x 3, {head['channels']:.0f})\n"
        f"conv 1 x 1 to {head['outputs']} a location"
    )


def _second(head: "Series[Any]") -> str:
    return (
        f"second stage\nRoI align to {head['pool']:.0f} x {head['pool']:.0f}\n"
        f"{head['layers']:.0f} x (linear, {head['channels']:.0f})\nlinear to {head['outputs']} a proposal"
    )

"""The one-stage detector of a study as it was built: backbone, pyramid and heads with strides, shapes and anchors."""

from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import network
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

KIND = "retinanet"


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The structure, and the manifest (the number of images)."""
    return network.inputs(study, layout, KIND)


def data(study: Study, layout: Layout) -> "DataFrame":
    """A row for each level of the backbone (``part`` backbone), of the pyramid (level) and for each head."""
    return network.data(study, layout, KIND)


def caption(study: Study, data: "DataFrame") -> str:
    """Say what was built and how many predictions it makes."""
    heads = "Both heads are shared by all levels and share no weights with each other."
    return network.caption(study, data, heads)


def draw(data: "DataFrame") -> "Figure":
    """Backbone bottom-up, pyramid beside it level by level, heads on the right."""
    figure, axes, rows = network.trunk(data)
    levels = data[data["part"] == "level"]
    _heads(axes, data[data["part"] == "head"], [rows[stride] for stride in levels["stride"]])
    return figure


def _heads(axes: "Axes", heads: "DataFrame", rows: list[float]) -> None:
    """The heads, spread over the height of the pyramid; a bracket says that every level goes through both."""
    place = network.PYRAMID + network.WIDTHS[1] + 0.45
    network.bracket(axes, rows, place)
    middle, spread = (min(rows) + max(rows)) / 2, max(1.1, 0.38 * (max(rows) - min(rows)))
    for index, (_, head) in enumerate(heads.iterrows()):
        row = middle + spread * (0.5 - index / max(len(heads) - 1, 1))
        norm = "" if head["norm"] == "none" else f", {head['norm']} norm"
        words = (
            f"{head['name'].replace('_', ' ')}\n{head['convs']:.0f} x (conv 3 x 3, {head['channels']:.0f}{norm})\n"
            f"conv 3 x 3 to {head['outputs']} a location"
        )
        network.box(axes, (network.HEADS, row), (network.WIDTHS[2], 0.78), network.FILLS["head"], words)
        network.arrow(axes, (place, row), (network.HEADS, row))
    axes.text(network.HEADS + network.WIDTHS[2] / 2, middle + spread / 2 + 0.6, "heads", ha="center", weight="bold")

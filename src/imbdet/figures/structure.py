"""The detector of a study as it was built: backbone, pyramid and heads with strides, shapes and anchors."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

ROW = 0.72  # inches from one level to the next
BOX = 0.5  # height of a box, in the unit of a row
BACKBONE, PYRAMID, HEADS, WIDTHS = 0.0, 2.55, 6.6, (1.75, 2.9, 2.6)  # left edges and widths of the columns
FILLS = {"backbone": "#dbe9f6", "level": "#d9f0e3", "head": "#fbe6d4"}


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The structure, and the manifest (the number of images)."""
    return [layout.structure, layout.manifest]


def data(study: Study, layout: Layout) -> "DataFrame":
    """A row for each level of the backbone (``part`` backbone), of the pyramid (level) and for each head."""
    record = records.read_json(layout.structure)
    rows = [{"part": "backbone", **_sized(level)} for level in record["backbone_levels"]]
    rows += [{"part": "level", **_sized(level)} for level in record["levels"]]
    rows += [{"part": "head", **head} for head in record["heads"]]
    height, width = record["image"]
    constant = {key: record[key] for key in ("name", "backbone", "parameters")}
    return records.frame(rows).assign(
        **{f"detector_{key}": value for key, value in constant.items()},
        image_height=height,
        image_width=width,
        p6_source=record["p6_source"],
        images=records.images(layout, "train"),
    )


def _sized(level: Any) -> dict[str, Any]:
    """A level with its pairs of numbers as columns of their own."""
    flat = {key: value for key, value in level.items() if not isinstance(value, list)}
    flat["height"], flat["width"] = level["shape"]
    if "anchor_sides" in level:
        flat["smallest_anchor"], flat["largest_anchor"] = level["anchor_sides"]
    return flat


def caption(study: Study, data: "DataFrame") -> str:
    """Say what was built and how many predictions it makes."""
    first = data.iloc[0]
    return (
        f"The detector ({first['detector_name']}) as built for this study, drawn from the model: backbone "
        f"{first['detector_backbone']}, {first['detector_parameters']:,} parameters, {data['anchors'].sum():,.0f} "
        f"anchors on an image of {first['image_height']} x {first['image_width']} pixels. Shapes are height x width x "
        "channels; beside the number of anchors stand their shortest and longest side in pixels. Both heads are shared "
        "by all levels and share no weights with each other. "
        + captions.about(study, f"{first['images']:,} training images")
    )


def draw(data: "DataFrame") -> "Figure":
    """Backbone bottom-up, pyramid beside it level by level, heads on the right."""
    backbone, levels, heads = (data[data["part"] == part] for part in ("backbone", "level", "head"))
    # A row for each stride; the finest stands at the bottom, as in the usual drawings of a pyramid.
    strides = sorted({*backbone["stride"], *levels["stride"]})
    rows = {stride: float(row) for row, stride in enumerate(strides)}
    figure, (axes,) = style.canvas(ROW * (len(rows) + 0.9))
    axes.set_axis_off()
    axes.set(xlim=(-0.1, HEADS + WIDTHS[2] + 0.1), ylim=(-0.85, len(rows) - 0.05))
    _backbone(axes, backbone, rows)
    _pyramid(axes, levels, backbone, rows)
    _extra_levels(axes, levels, backbone, rows, data["p6_source"].iloc[0])
    _heads(axes, heads, [rows[stride] for stride in levels["stride"]])
    first = data.iloc[0]
    image = f"image {first['image_height']:.0f} x {first['image_width']:.0f}"
    axes.text(BACKBONE + WIDTHS[0] / 2, -0.8, image, ha="center", va="center")
    return figure


def _backbone(axes: "Axes", levels: "DataFrame", rows: dict[float, float]) -> None:
    middle = BACKBONE + WIDTHS[0] / 2
    below: float = -0.65
    for _, level in levels.iterrows():
        row = rows[level["stride"]]
        _box(
            axes,
            (BACKBONE, row),
            (WIDTHS[0], BOX),
            FILLS["backbone"],
            f"{level['name']}, stride {level['stride']:.0f}\n{_shape(level)}",
        )
        _arrow(axes, (middle, below), (middle, row - BOX / 2))
        below = row + BOX / 2
    axes.text(middle, below + 0.2, "backbone", ha="center", weight="bold")


def _pyramid(axes: "Axes", levels: "DataFrame", backbone: "DataFrame", rows: dict[float, float]) -> None:
    """All levels; those with a stage of the backbone beside them are joined to it and top-down."""
    middle = PYRAMID + WIDTHS[1] / 2
    for _, level in levels.iterrows():
        row = rows[level["stride"]]
        words = (
            f"{level['name']}, stride {level['stride']:.0f}, {_shape(level)}\n"
            f"{level['anchors']:,.0f} anchors, {level['smallest_anchor']:.0f} to {level['largest_anchor']:.0f} px"
        )
        _box(axes, (PYRAMID, row), (WIDTHS[1], BOX), FILLS["level"], words)
    joined = [rows[stride] for stride in sorted(backbone["stride"])]
    for row in joined:
        _arrow(axes, (BACKBONE + WIDTHS[0], row), (PYRAMID, row))
    for lower, upper in pairwise(joined):
        _arrow(axes, (middle, upper - BOX / 2), (middle, lower + BOX / 2))
    axes.text(middle, max(rows.values()) + BOX / 2 + 0.2, "feature pyramid", ha="center", weight="bold")


def _extra_levels(
    axes: "Axes", levels: "DataFrame", backbone: "DataFrame", rows: dict[float, float], source: str
) -> None:
    """Levels above the backbone are made one from the other; the first from C5 (the paper) or P5 (torchvision)."""
    middle, top = PYRAMID + WIDTHS[1] / 2, max(backbone["stride"])
    extra = [rows[stride] for stride in sorted(levels["stride"]) if stride > top]
    if source == "c5":
        _arrow(axes, (BACKBONE + WIDTHS[0], rows[top] + BOX / 4), (PYRAMID, extra[0]))
    else:
        extra = [rows[top], *extra]
    for lower, upper in pairwise(extra):
        _arrow(axes, (middle, lower + BOX / 2), (middle, upper - BOX / 2))


def _heads(axes: "Axes", heads: "DataFrame", rows: list[float]) -> None:
    """The heads, spread over the height of the pyramid; a bracket says that every level goes through both."""
    bracket = PYRAMID + WIDTHS[1] + 0.45
    for row in rows:
        axes.plot((PYRAMID + WIDTHS[1], bracket), (row, row), color=style.GREY, linewidth=1)
    axes.plot((bracket, bracket), (min(rows), max(rows)), color=style.GREY, linewidth=1)
    middle, spread = (min(rows) + max(rows)) / 2, max(1.1, 0.38 * (max(rows) - min(rows)))
    for index, (_, head) in enumerate(heads.iterrows()):
        row = middle + spread * (0.5 - index / max(len(heads) - 1, 1))
        norm = "" if head["norm"] == "none" else f", {head['norm']} norm"
        words = (
            f"{head['name'].replace('_', ' ')}\n{head['convs']:.0f} x (conv 3 x 3, {head['channels']:.0f}{norm})\n"
            f"conv 3 x 3 to {head['outputs']} a location"
        )
        _box(axes, (HEADS, row), (WIDTHS[2], 0.78), FILLS["head"], words)
        _arrow(axes, (bracket, row), (HEADS, row))
    axes.text(HEADS + WIDTHS[2] / 2, middle + spread / 2 + 0.6, "heads", ha="center", weight="bold")


def _shape(level: "Series[Any]") -> str:
    return f"{level['height']:.0f} x {level['width']:.0f} x {level['channels']:.0f}"


def _box(axes: "Axes", place: tuple[float, float], size: tuple[float, float], fill: str, words: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    (left, row), (width, height) = place, size
    corner = (left, row - height / 2)
    look: dict[str, Any] = {"facecolor": fill, "edgecolor": style.GREY, "boxstyle": "round,pad=0,rounding_size=0.06"}
    axes.add_patch(FancyBboxPatch(corner, width, height, **look))
    axes.text(left + width / 2, row, words, ha="center", va="center", fontsize=7.5, linespacing=1.25)


def _arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": style.GREY, "shrinkA": 0, "shrinkB": 0})

"""What the drawings of detectors share: the record as a table, backbone and pyramid, boxes and arrows."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.errors import UserError
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


def inputs(study: Study, layout: Layout, kind: str) -> list[Path]:
    """The structure of the study's first detector of a kind, and the manifest (the number of images)."""
    return [layout.structure(_detector(study, kind)), layout.manifest]


def _detector(study: Study, kind: str) -> str:
    name = records.first_detector(study, kind)
    if name is None:
        raise UserError(f"study {study.name} has no {kind} among its detectors, of which this would be the drawing")
    return name


def data(study: Study, layout: Layout, kind: str) -> "DataFrame":
    """A row for each level of the backbone (``part`` backbone), of the pyramid (level) and for each head."""
    record = records.read_json(layout.structure(_detector(study, kind)))
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


def caption(study: Study, data: "DataFrame", heads: str) -> str:
    """Say what was built and how many anchors it has; ``heads`` are sentences about the heads."""
    first = data.iloc[0]
    return (
        f"The detector ({first['detector_name']}) as built for this study, drawn from the model: backbone "
        f"{first['detector_backbone']}, {first['detector_parameters']:,} parameters, {data['anchors'].sum():,.0f} "
        f"anchors on an image of {first['image_height']} x {first['image_width']} pixels. Shapes are height x width x "
        f"channels; beside the number of anchors stand their shortest and longest side in pixels. {heads} "
        + captions.about(study, f"{first['images']:,} training images")
    )


def trunk(data: "DataFrame") -> "tuple[Figure, Axes, dict[float, float]]":
    """Draw backbone bottom-up and, level by level beside it, the pyramid; return the row of each stride, too."""
    backbone, levels = (data[data["part"] == part] for part in ("backbone", "level"))
    # A row for each stride; the finest stands at the bottom, as in the usual drawings of a pyramid.
    strides = sorted({*backbone["stride"], *levels["stride"]})
    rows = {stride: float(row) for row, stride in enumerate(strides)}
    figure, (axes,) = style.canvas(ROW * (len(rows) + 0.9))
    axes.set_axis_off()
    axes.set(xlim=(-0.1, HEADS + WIDTHS[2] + 0.1), ylim=(-0.85, len(rows) - 0.05))
    _backbone(axes, backbone, rows)
    _pyramid(axes, levels, backbone, rows)
    _extra_levels(axes, levels, backbone, rows, data["p6_source"].iloc[0])
    first = data.iloc[0]
    image = f"image {first['image_height']:.0f} x {first['image_width']:.0f}"
    axes.text(BACKBONE + WIDTHS[0] / 2, -0.8, image, ha="center", va="center")
    return figure, axes, rows


def _backbone(axes: "Axes", levels: "DataFrame", rows: dict[float, float]) -> None:
    middle = BACKBONE + WIDTHS[0] / 2
    below: float = -0.65
    for _, level in levels.iterrows():
        row = rows[level["stride"]]
        box(
            axes,
            (BACKBONE, row),
            (WIDTHS[0], BOX),
            FILLS["backbone"],
            f"{level['name']}, stride {level['stride']:.0f}\n{_shape(level)}",
        )
        arrow(axes, (middle, below), (middle, row - BOX / 2))
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
        box(axes, (PYRAMID, row), (WIDTHS[1], BOX), FILLS["level"], words)
    joined = [rows[stride] for stride in sorted(backbone["stride"])]
    for row in joined:
        arrow(axes, (BACKBONE + WIDTHS[0], row), (PYRAMID, row))
    for lower, upper in pairwise(joined):
        arrow(axes, (middle, upper - BOX / 2), (middle, lower + BOX / 2))
    axes.text(middle, max(rows.values()) + BOX / 2 + 0.2, "feature pyramid", ha="center", weight="bold")


def _extra_levels(
    axes: "Axes", levels: "DataFrame", backbone: "DataFrame", rows: dict[float, float], source: str
) -> None:
    """Levels above the backbone are made one from the other; the first from C5 or, where the source says else, P5."""
    middle, top = PYRAMID + WIDTHS[1] / 2, max(backbone["stride"])
    extra = [rows[stride] for stride in sorted(levels["stride"]) if stride > top]
    if not extra:
        return
    if source == "c5":
        arrow(axes, (BACKBONE + WIDTHS[0], rows[top] + BOX / 4), (PYRAMID, extra[0]))
    else:
        extra = [rows[top], *extra]
    for lower, upper in pairwise(extra):
        arrow(axes, (middle, lower + BOX / 2), (middle, upper - BOX / 2))


def bracket(axes: "Axes", rows: "list[float]", place: float, **look: Any) -> None:
    """Gather levels of the pyramid, in ``rows``, on a line at ``place``."""
    for row in rows:
        axes.plot((PYRAMID + WIDTHS[1], place), (row, row), color=style.GREY, linewidth=1, **look)
    axes.plot((place, place), (min(rows), max(rows)), color=style.GREY, linewidth=1, **look)


def _shape(level: "Series[Any]") -> str:
    return f"{level['height']:.0f} x {level['width']:.0f} x {level['channels']:.0f}"


def box(axes: "Axes", place: tuple[float, float], size: tuple[float, float], fill: str, words: str) -> None:
    """Draw a box with words; ``place`` is its left edge and its middle row."""
    from matplotlib.patches import FancyBboxPatch

    (left, row), (width, height) = place, size
    corner = (left, row - height / 2)
    look: dict[str, Any] = {"facecolor": fill, "edgecolor": style.GREY, "boxstyle": "round,pad=0,rounding_size=0.06"}
    axes.add_patch(FancyBboxPatch(corner, width, height, **look))
    axes.text(left + width / 2, row, words, ha="center", va="center", fontsize=7.5, linespacing=1.25)


def arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": style.GREY, "shrinkA": 0, "shrinkB": 0})

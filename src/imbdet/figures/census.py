"""The imbalance of a study's data as its detector meets it: anchors by level, boxes by class."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

SETS = ("foreground", "background", "ignored")
NAMED_CLASSES = 24  # more names than this cannot be read beside one another
FEW_CLASSES = 10  # names and numbers of more stand upright


def _record(study: Study, layout: Layout) -> Path:
    """The census of the one-stage detector, which trains on all anchors, or else of the first one."""
    return layout.census(records.first_detector(study, "retinanet") or next(iter(study.detectors)))


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The census."""
    return [_record(study, layout)]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns panel (levels: of a mean image; classes: of all), name, counted (foreground, ...), count, images."""
    census = records.read_json(_record(study, layout))
    levels = [
        {"panel": "levels", "name": level["name"], "counted": counted, "count": level[counted]}
        for level in census["levels"]
        for counted in SETS
    ]
    classes = [
        {"panel": "classes", "name": entry["name"], "counted": "boxes", "count": entry["boxes"]}
        for entry in records.census_classes(_record(study, layout))
    ]
    return records.frame([*levels, *classes]).assign(images=census["images"])


def caption(study: Study, data: "DataFrame") -> str:
    """Say how strong each imbalance is, from the plotted counts."""
    anchors = data[data["panel"] == "levels"].groupby("counted")["count"].sum()
    boxes = data.loc[data["panel"] == "classes", "count"]
    ratio = f"{boxes.max() / boxes.min():,.0f} times as many as" if boxes.min() else "while there are none of"
    return (
        "Census of imbalance in the training set. Left: anchors of a mean image by level of the pyramid (logarithmic "
        "axis; the numbers stand above the bars, and a count of 0 has no bar). Over all levels "
        f"{anchors['foreground']:,.1f} of {anchors.sum():,.0f} anchors are foreground "
        f"({anchors['foreground'] / anchors.sum():.2%}). Right: boxes of the whole training set by class (logarithmic "
        f"axis); the commonest has {boxes.max():,.0f}, {ratio} the rarest. "
        + captions.about(study, f"anchors counted on {data['images'].iloc[0]:,} training images")
    )


def draw(data: "DataFrame") -> "Figure":
    """Bars by level beside bars by class."""
    figure, (left, right) = style.canvas(3.5, columns=2, width_ratios=(1.35, 1))
    _levels(left, data[data["panel"] == "levels"])
    _classes(right, data[data["panel"] == "classes"])
    return figure


def _levels(axes: "Axes", data: "DataFrame") -> None:
    counts = data.pivot_table("count", "name", "counted", sort=False)[list(SETS)]
    for index, name in enumerate(SETS):
        places = [place + (index - 1) * 0.28 for place in range(len(counts))]
        look: dict[str, Any] = {
            "color": style.COLOUR_OF[name],
            "hatch": style.HATCHES[index],
            "edgecolor": "white",
        }
        bars = axes.bar(places, counts[name], 0.28, label=name, **look)
        axes.bar_label(bars, [style.short(count) for count in counts[name]], padding=1.5, fontsize=7)
    axes.set_xticks(range(len(counts)), counts.index)
    axes.set(yscale="log", ylabel="anchors in a mean image", xlabel="level of the pyramid", title="anchors by level")
    axes.set_ylim(_floor(counts), 30 * counts.to_numpy().max())
    axes.grid(False, axis="x")
    axes.legend(loc="upper right", ncols=3, columnspacing=1.0, handlelength=1.6)


def _floor(counts: "DataFrame") -> float:
    """The power of ten below the smallest bar, far enough for the bar to be seen."""
    values = counts.to_numpy()
    return float(10 ** math.floor(math.log10(values[values > 0].min() / 2)))


def _classes(axes: "Axes", data: "DataFrame") -> None:
    bars = axes.bar(range(len(data)), data["count"], 0.8, color=style.COLOURS[3])
    axes.set(yscale="log", ylabel="boxes", title="boxes by class", ylim=(0.7, 4 * data["count"].max()))
    axes.grid(False, axis="x")
    if len(data) <= NAMED_CLASSES:
        axes.set_xticks(range(len(data)), data["name"], fontsize=8, **_slanted(len(data)))
        turned = 90 if len(data) > FEW_CLASSES else 0  # side by side, many numbers would overlap
        numbers = [f"{count:,.0f}" for count in data["count"]]
        axes.bar_label(bars, numbers, padding=1.5, fontsize=7, rotation=turned)
    else:
        axes.set_xlabel(f"{len(data):,} classes, commonest first")


def _slanted(count: int) -> dict[str, Any]:
    """Names of few classes slant from their bar to the lower left; many stand upright."""
    return {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if count <= FEW_CLASSES else {"rotation": 90}

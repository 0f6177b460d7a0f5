"""How the scores of foreground and background differ under each method."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, error_types, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

SETS = ("foreground", "background")
LEVELS = ("low", "lower", "median", "upper", "high")  # the quantiles of the record, in its order
ROW = 0.27  # inches
OFFSET = {"foreground": -0.2, "background": 0.2}


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The errors of each experiment, of the study's first seed."""
    return [layout.errors(name) for name in error_types.experiments(study)]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns experiment, label, detector, images, separation, set, count, and quantiles: low to high, at levels."""
    rows = []
    for name in error_types.experiments(study):
        record = records.read_json(layout.errors(name))
        about = {"experiment": name, **{key: record[key] for key in ("label", "detector", "images")}}
        scores = record["scores"]
        for kind in SETS:
            quantiles = dict(zip(LEVELS, scores[kind]["quantiles"] or [None] * len(LEVELS), strict=True))
            ends = {"from": scores["levels"][0], "to": scores["levels"][-1]}
            known = {**about, "separation": scores["separation"], "set": kind, "count": scores[kind]["count"]}
            rows.append({**known, **ends, **quantiles})
    return records.frame(rows)


def caption(study: Study, data: "DataFrame") -> str:
    """Say what is foreground, what background, and what the separation means."""
    first = data.iloc[0]
    known = data.dropna(subset=["separation"])
    ends = ""
    if not known.empty:
        lowest, highest = (known.loc[known["separation"].agg(which)] for which in ("idxmin", "idxmax"))
        ends = (
            f"It goes from {lowest['separation']:.3f} ({lowest['label']}) to {highest['separation']:.3f} "
            f"({highest['label']}). "
        )
    counts = {kind: data.loc[data["set"] == kind, "count"] for kind in SETS}
    sizes = ", ".join(f"{kind} {numbers.min():,} to {numbers.max():,}" for kind, numbers in counts.items())
    return (
        "Scores of foreground and background detections. Foreground: those with an object of their class under them "
        "(IoU of 0.5 or more), duplicates included; background: those that meet no object (IoU below 0.1). Box: the "
        f"middle half, with the median; line: from {first['from']:.0%} to {first['to']:.0%} of the scores. On the "
        "right, the separation: how probably a foreground detection has the higher score of the two (area under the "
        f"ROC curve; 0.5 by chance, 1 at best). {ends}Only detections that the detector keeps are in it (score "
        "threshold, suppression, a limit for each image), "
        f"so that the numbers differ between methods: {sizes}. The level of the scores is a matter of each method's "
        f"loss: compare how far the two lie apart. {captions.single(study)}"
        + captions.about(study, f"measured on {data['images'].iloc[0]:,} validation images")
    )


def draw(data: "DataFrame") -> "Figure":
    """A row for each experiment: boxes of either set on the left, their separation on the right."""
    places, names = error_types.rows_of(data)
    figure, (scores, separation) = style.canvas(ROW * (len(names) + 1) + 0.6, 1, 2, width_ratios=(2.2, 1), sharey=True)
    for kind in SETS:
        rows = data[data["set"] == kind]
        _boxes(scores, rows, rows["experiment"].map(places) + OFFSET[kind], kind)
    scores.set(xlim=(-0.01, 1.01), xlabel="score")
    rows = data[data["set"] == "foreground"]
    at = rows["experiment"].map(places)
    separation.plot(rows["separation"], at, "D", color="black", markersize=4)
    for value, place in zip(rows["separation"], at, strict=True):
        separation.annotate(f"{value:.3f}", (value, place), (5, 0), textcoords="offset points", va="center", fontsize=7)
    low = min(0.9, rows["separation"].min())
    separation.set(xlim=(low - 0.1 * (1 - low), 1 + 0.25 * (1 - low)), xlabel="separation")
    for axes in (scores, separation):
        error_types.label_rows(axes, places, names)
    scores.legend(loc="upper right", fontsize=8, handlelength=1.6, ncols=2, borderaxespad=0)
    return figure


def _boxes(axes: "Axes", rows: "DataFrame", at: "Series", kind: str) -> None:
    """Quantiles as a line, a box and a mark."""
    colour = style.COLOUR_OF[kind]
    filled = kind == "foreground"
    box: dict[str, Any] = {"facecolor": colour if filled else "white", "hatch": "" if filled else "//////"}
    axes.hlines(at, rows["low"], rows["high"], color=colour, linewidth=1)
    axes.barh(at, rows["upper"] - rows["lower"], 0.34, left=rows["lower"], edgecolor=colour, label=kind, **box)
    axes.plot(rows["median"], at, "|", color="black", markersize=7, markeredgewidth=1.6)

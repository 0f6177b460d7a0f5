"""Which errors each method trades for which: the AP50 that each kind of error costs, beside the baseline's."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, records, style
from imbdet.figures.tables import Column, numbers, text
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

ERRORS = {  # of imbdet.evaluation.errors, which imports pycocotools; a test compares them
    "class": "a detection on an object of another class, IoU of 0.5 or more",
    "localisation": "near one of its own class, IoU of 0.1 to 0.5",
    "both": "near one of another class",
    "duplicate": "on an object that a higher score has taken",
    "background": "where no object is",
    "missed": "an object that no mended one would find",
}
SPECIAL = {"false_positive": "false positives", "false_negative": "false negatives"}
ROW = 0.165  # inches
MORE: dict[str, Any] = {"facecolor": style.COLOURS[2], "edgecolor": "white", "linewidth": 0}
LESS: dict[str, Any] = {"facecolor": "white", "edgecolor": style.COLOURS[1], "linewidth": 0.6, "hatch": "//////"}
LOST: dict[str, Any] = {"facecolor": "#bbbbbb", "edgecolor": "white", "linewidth": 0}


def experiments(study: Study) -> list[str]:
    """The experiments of figures across methods, all where the report names none; those of a detector together."""
    chosen = study.report.methods or tuple(study.experiments)
    return [name for detector in study.detectors for name in chosen if study.experiment(name).detector == detector]


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The errors of each experiment with each seed."""
    return [layout.at_seed(seed).errors(name) for name in experiments(study) for seed in study.seeds]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns experiment, label, detector, baseline (of its detector), seed, images, AP50, error, lost (percent)."""
    rows = []
    for name in experiments(study):
        for seed in study.seeds:
            record = records.read_json(layout.at_seed(seed).errors(name))
            about = {key: record[key] for key in ("label", "detector")}
            about |= {"baseline": _baseline(study, name), "seed": seed, "images": record["images"]}
            costs = {**{error: record["cost"][error] for error in ERRORS}, **record["special"]}
            known = {"experiment": name, **about, "AP50": records.percent(record["AP50"])}
            rows += [{**known, "error": error, "lost": records.percent(cost)} for error, cost in costs.items()]
    return records.frame(rows)


def _baseline(study: Study, experiment: str) -> str:
    """The experiment that one is compared with: the first of its detector that is a baseline, or else any."""
    detector = study.experiment(experiment).detector
    rivals = [name for name in experiments(study) if study.experiment(name).detector == detector]
    named = study.intervals.baselines if study.intervals else ()
    return [*(name for name in named if name in rivals), *rivals][0]


def caption(study: Study, data: "DataFrame") -> str:
    """Say what each error is, what its cost means, and which differ most from the baseline."""
    kinds = ", ".join(f"{error} ({words})" for error, words in ERRORS.items())
    seeds = data["seed"].unique().tolist()
    one = len(seeds) == 1
    runs = "One run each, so that small differences may be noise." if one else "Means over the seeds (a dot for each)."
    return (
        "AP50 that each kind of error costs, in points (Bolya et al. 2020, TIDE, arXiv 2008.08115): what AP50 would "
        f"gain if all errors of this kind were mended and no others. Kinds: {kinds}. Costs hide each other and do not "
        "add up; the table has those of all false detections and of all objects that nothing finds as well. "
        "The line is the baseline of the detector; orange: what a method loses beyond it; hatched: what it saves; the "
        f"number is the difference, and of the baseline what it loses. {' '.join(_changes(data))} {runs} "
        + captions.about(study, f"measured on {data['images'].iloc[0]:,} validation images", seeds)
    )


def _changes(data: "DataFrame") -> list[str]:
    """For each detector with several methods, the lowest and the highest of all differences to its baseline."""
    sentences = []
    label = data.set_index("experiment")["label"].to_dict()
    for baseline, rows in data[data["error"].isin(list(ERRORS))].groupby("baseline", sort=False):
        lost = means(rows)
        of_method = lost.sub(lost.loc[baseline]).drop(index=baseline).iterrows()
        every = [(value, error, label[name]) for name, row in of_method for error, value in row.dropna().items()]
        if every:
            words = [f"{signed(value)} ({error}, {name})" for value, error, name in (min(every), max(every))]
            sentences.append(f"Beside {label[baseline]}, the differences go from {' to '.join(words)}.")
    return sentences


def signed(value: float) -> str:
    """A difference to one decimal, with its sign unless that shows nothing."""
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0.0"


def means(data: "DataFrame") -> "DataFrame":
    """Points lost by experiment (rows) and error (columns), the mean over the seeds, both in the order of the data."""
    table = data.groupby(["experiment", "error"], sort=False)["lost"].mean().unstack()
    return table.loc[data["experiment"].unique(), data["error"].unique()]


def table(data: "DataFrame") -> list[Column]:
    """A row for each experiment, means over the seeds."""
    about = data.groupby("experiment", sort=False)[["label", "detector", "AP50"]].agg(
        {"label": "first", "detector": "first", "AP50": "mean"}
    )
    lost = means(data)
    columns = [
        Column("", "experiment", text(about["label"])),
        Column("", "detector", text(about["detector"].map(captions.detector_name))),
    ]
    columns.append(Column("", "AP50", numbers(about["AP50"], ".1f")))
    columns += [Column("points of AP50 lost to", error, numbers(lost[error], ".1f")) for error in ERRORS]
    return columns + [Column("lost to all of", name, numbers(lost[key], ".1f")) for key, name in SPECIAL.items()]


def draw(data: "DataFrame") -> "Figure":
    """A panel for each kind of error, with a bar for each method in the same order and on the same scale."""
    places, names = rows_of(data)
    figure, panels, below = style.grid(len(ERRORS), 3, ROW * (len(names) + 1) + 0.35, sharex=True, sharey=True)
    shown = data[data["error"].isin(list(ERRORS))]
    for place, (axes, error) in enumerate(zip(panels, ERRORS, strict=True)):
        _panel(axes, shown[shown["error"] == error], places, 0.02 * shown["lost"].max())
        axes.set_title(error, fontsize=9)
        axes.set_xlabel("points of AP50" if place >= 3 else "", fontsize=8)
        label_rows(axes, places, names)
    panels[0].set_xlim(0, 1.3 * max(0.1, shown["lost"].max()))
    _legend(below, seeds=data["seed"].nunique() > 1)
    return figure


def rows_of(data: "DataFrame") -> tuple[dict[str, int], dict[int, str]]:
    """The row of each experiment, and the words of every row; a detector's name stands above its experiments."""
    places: dict[str, int] = {}
    names: dict[int, str] = {}
    for detector, rows in data.groupby("detector", sort=False):
        names[len(names)] = captions.detector_name(str(detector))
        for experiment, label in rows.groupby("experiment", sort=False)["label"].first().items():
            places[str(experiment)] = len(names)
            names[len(names)] = label
    return places, names


def label_rows(axes: "Axes", places: dict[str, int], names: dict[int, str]) -> None:
    """Write the words of the rows beside an axis that runs downwards, those of a detector in bold."""
    axes.set_yticks(list(names), list(names.values()))
    axes.tick_params(labelsize=7.5, length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    for place, tick in zip(names, axes.yaxis.get_major_ticks(), strict=True):
        tick.label1.set_fontweight("normal" if place in places.values() else "bold")


def _panel(axes: "Axes", data: "DataFrame", places: dict[str, int], gap: float) -> None:
    """The bars of one kind of error, what they have beyond or below the baseline's, and the difference in words."""
    lost = data.groupby("experiment", sort=False)["lost"].mean()
    for baseline, rows in data.groupby("baseline", sort=False):
        of_base = lost[baseline]
        own = [places[name] for name in rows["experiment"].unique()]
        axes.plot([of_base] * 2, [min(own) - 0.45, max(own) + 0.45], color="black", linewidth=1)
        for name in rows["experiment"].unique():
            _bar(axes, places[name], lost[name], of_base)
            words = f"{of_base:.1f}" if name == baseline else signed(lost[name] - of_base)
            end = max(of_base, rows.loc[rows["experiment"] == name, "lost"].max())
            axes.text(end + gap, places[name], words, va="center", fontsize=7)
    if data["seed"].nunique() > 1:
        axes.scatter(data["lost"], data["experiment"].map(places), s=5, color="black", zorder=3, linewidths=0)


def _bar(axes: "Axes", place: int, lost: float, baseline: float) -> None:
    axes.barh(place, min(lost, baseline), 0.72, **LOST)
    look = MORE if lost > baseline else LESS
    axes.barh(place, abs(lost - baseline), 0.72, left=min(lost, baseline), **look)


def _legend(axes: "Axes", seeds: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(label="points lost", **LOST),
        Line2D([], [], color="black", linewidth=1, label="baseline"),
        Patch(label="beyond it", **MORE),
        Patch(label="saved", **LESS),
    ]
    if seeds:
        handles.append(Line2D([], [], color="black", marker="o", markersize=2.5, linestyle="", label="one seed"))
    axes.set_axis_off()
    axes.legend(handles=handles, loc="center left", ncols=len(handles), fontsize=8, handlelength=1.6).set_in_layout(
        False
    )

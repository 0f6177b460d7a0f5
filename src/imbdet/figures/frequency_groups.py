"""What each method does for frequent and for rare classes: AP by groups of class frequency, and class by class."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.errors import UserError
from imbdet.figures import captions, records, style
from imbdet.figures.tables import Column, numbers, text
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

LVIS = {"rare": 10, "common": 100, "frequent": float("inf")}  # the most training images that hold a class
THIRDS = ("rarest third", "middle third", "commonest third")
ALL = "all"
Looks = Mapping[str, Mapping[str, Any]]  # by experiment: colour, dashes and marker
MARKERS = "os^Dv"


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The evaluation of each experiment with each seed, and the census of each detector, which counts its classes."""
    names = study.report.equalization
    census = dict.fromkeys(layout.census(study.experiments[name].detector) for name in names)
    return [*(layout.at_seed(seed).evaluation(name) for name in names for seed in study.seeds), *census]


def data(study: Study, layout: Layout) -> "DataFrame":
    """A row for each experiment of the list and class: how often it is in the training images, and AP in percent.

    Columns experiment, label, detector, seeds (how many), validation_images, id, name, boxes and images of the class in
    the training set, group, AP (the mean over the seeds) and difference (to that of the list's first experiment). A
    class without validation boxes has no AP. Raises :class:`UserError` where no class has any, or where evaluation and
    census are not of the same classes.
    """
    tables = []
    for name in study.report.equalization:
        census = layout.census(study.experiments[name].detector)
        classes = groups(records.frame(records.census_classes(census))[["id", "name", "boxes", "images"]])
        runs = records.evaluations(study, layout, name)
        aps = [_by_class(run, set(classes["id"]), census) for run in runs]
        means = {category: _mean([ap[category] for ap in aps]) for category in classes["id"]}
        about = {**records.named(layout, name), "seeds": len(runs), "validation_images": runs[0]["images"]}
        tables.append(classes.assign(AP=classes["id"].map(means).astype(float), **about))
    differences = [table["AP"] - table["id"].map(tables[0].set_index("id")["AP"]) for table in tables]
    rows = [table.assign(difference=step.round(9)) for table, step in zip(tables, differences, strict=True)]
    if all(table["AP"].isna().all() for table in tables):
        raise UserError(f"study {study.name}: no class has validation boxes, and so none has AP; give it such images")
    first = ["experiment", "label", "detector", "seeds", "validation_images"]
    return records.concat(rows)[[*first, "id", "name", "boxes", "images", "group", "AP", "difference"]]


def groups(classes: "DataFrame") -> "DataFrame":
    """Return classes (columns id, boxes, images) from the rarest to the commonest, with the group of each.

    The groups are LVIS's, by the number of training images that hold a class, where each has at least one class;
    otherwise they are thirds of the classes.
    """
    ranked = classes.sort_values(["images", "boxes", "id"], ignore_index=True)
    lvis = [next(name for name, most in LVIS.items() if images <= most) for images in ranked["images"]]
    thirds = [THIRDS[3 * place // len(ranked)] for place in range(len(ranked))]
    return ranked.assign(group=lvis if set(lvis) == set(LVIS) else thirds)


def _by_class(evaluation: records.Record, categories: set[int], census: Path) -> dict[int, float | None]:
    """AP in percent of each class, by its id, which must be those that the census has."""
    found = {row["category_id"]: records.percent(row["AP"]) for row in evaluation["per_class"]}
    if other := sorted(found.keys() ^ categories):
        raise UserError(
            f"{evaluation.path} and {census} are not of the same data: only one of them has category {other[0]}; "
            "run the study again"
        )
    return found


def _mean(values: list[float | None]) -> float | None:
    """The mean of a class over the seeds; validation boxes, and with them AP, it has in all of them or in none."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 9) if known else None


def means(data: "DataFrame") -> "DataFrame":
    """Return experiment, label, group, classes (how many have an AP), and the means of their AP and difference.

    The groups stand from the rarest to the commonest, with ``all`` last.
    """
    known = data.dropna(subset="AP")
    both = records.concat([known, known.assign(group=ALL)])
    found = both.groupby(["experiment", "label", "group"], sort=False)
    return found.agg(classes=("AP", "size"), AP=("AP", "mean"), difference=("difference", "mean")).reset_index()


def _sizes(found: "DataFrame") -> dict[str, int]:
    """How many classes each group has, from the rarest to the commonest."""
    groups = found.drop_duplicates("group")
    return dict(zip(groups["group"], groups["classes"], strict=True))


def caption(study: Study, data: "DataFrame") -> str:
    """Say what the groups are, which classes are left out, and what the differences are to."""
    classes = data.drop_duplicates("id")
    bounds = classes.groupby("group", sort=False)["images"].agg(["min", "max"])
    ranges = "; ".join(f"{group}, {low:,} to {high:,}" for group, low, high in bounds.itertuples())
    rule = (
        "those of LVIS, of classes that at most 10, at most 100 or more training images hold"
        if set(bounds.index) == set(LVIS)
        else "thirds of the classes by the training images that hold them, as one of LVIS's groups would be empty"
    )
    absent, seeds = int(classes["AP"].isna().sum()), int(data["seeds"].iloc[0])
    left_out = f"{absent:,} of {len(classes):,} classes are in no validation image and left out. " if absent else ""
    runs = f"means over {seeds} seeds" if seeds > 1 else "of one seed, so that small differences may be noise"
    return (
        f"AP by class frequency, {runs}. Groups: {rule} ({ranges} images). Left: mean AP of the classes of a group, "
        f"their number in brackets. Right: AP of each class minus that with {data['label'].iloc[0]}, by the training "
        f"images that hold the class; a line is a group's mean. {left_out}Few validation boxes make the AP of a single "
        "class uncertain. "
        + captions.about(study, f"measured on {data['validation_images'].iloc[0]:,} validation images", study.seeds)
    )


def table(data: "DataFrame") -> list[Column]:
    """A row for each experiment: AP by group and of all classes, and the differences to the first experiment."""
    found = means(data)
    sizes = _sizes(found)
    columns = [Column("", "experiment", text(found.drop_duplicates("experiment")["label"]))]
    for heading, value, form in (
        ("AP, percent", "AP", ".1f"),
        (f"difference to {found['label'].iloc[0]}", "difference", "+.1f"),
    ):
        wide = found.pivot_table(value, "experiment", "group", sort=False)
        columns += [Column(heading, f"{group} ({size})", numbers(wide[group], form)) for group, size in sizes.items()]
    return columns


def draw(data: "DataFrame") -> "Figure":
    """AP by group on the left; on the right a point for each class and each experiment but the first."""
    names = list(data["experiment"].unique())
    looks = zip(names, style.unordered(len(names)), cycle(MARKERS), strict=False)
    look_of = {name: {**look, "marker": marker} for name, look, marker in looks}
    figure, (left, right) = style.canvas(3.6, columns=2, width_ratios=(1, 1.25))
    _groups(left, means(data), look_of)
    _classes(right, data, look_of)
    return figure


def _groups(axes: "Axes", found: "DataFrame", look_of: Looks) -> None:
    """The mean AP of each group, experiments side by side."""
    sizes = _sizes(found)
    names = list(sizes)
    for place, (name, look) in enumerate(look_of.items()):
        rows = found[found["experiment"] == name]
        shift = 0.7 * ((place + 0.5) / len(look_of) - 0.5)
        places = [names.index(group) + shift for group in rows["group"]]
        axes.plot(places, rows["AP"], **{**look, "linestyle": "none"}, label=rows["label"].iloc[0])
    axes.set_xticks(range(len(names)), [f"{name} ({size})".replace(" ", "\n") for name, size in sizes.items()])
    axes.set(xlim=(-0.5, len(names) - 0.5), ylabel="AP, percent", title="mean AP by group (classes)")
    top = (1.1 + 0.08 * len(look_of)) * max(found["AP"].max(), 0.1)  # with room for the legend
    axes.set_ylim(-0.03 * top, top)  # and for marks at 0
    for border in range(1, len(names)):
        axes.axvline(border - 0.5, color="#dddddd", linewidth=0.6)
    axes.grid(False, axis="x")
    axes.legend(loc="upper left", fontsize=8, handlelength=1)


def _classes(axes: "Axes", data: "DataFrame", look_of: Looks) -> None:
    """The difference of each class, and the mean of each group as a line over its classes."""
    baseline = data["experiment"].iloc[0]
    for (name, _), rows in data[data["experiment"] != baseline].dropna().groupby(["experiment", "group"], sort=False):
        look = look_of[str(name)]
        points: dict[str, Any] = {"s": 16, "linewidths": 0, "alpha": 0.5, "rasterized": True}
        axes.scatter(rows["images"], rows["difference"], color=look["color"], marker=look["marker"], **points)
        ends = [rows["images"].min() / 1.06, rows["images"].max() * 1.06]  # the line of a single class is seen, too
        axes.plot(ends, [rows["difference"].mean()] * 2, color=look["color"], linestyle=look["linestyle"])
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    least, most = data["images"].min(), data["images"].max()
    ticks = [n for n in (0, *(n * 10**power for power in range(7) for n in (1, 2, 5))) if least <= n <= most]
    axes.set_xscale("symlog", linthresh=1)  # a class may be in none
    axes.set_xticks(ticks, [style.short(tick) for tick in ticks], fontsize=8)
    axes.set(xlim=(0.8 * least - 0.1, 1.25 * most), xlabel="training images with the class", ylabel="points of AP")
    axes.set_title(f"minus {data['label'].iloc[0]}, by class")

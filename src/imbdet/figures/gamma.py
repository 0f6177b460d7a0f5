"""Is a greater γ better? Published and measured AP by γ, and the shares of the gradient behind the measured one."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, comparison, gradient_shares, records, style
from imbdet.figures.tables import Column, estimates, numbers
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

METRIC = "AP"
SIDES = ("foreground", "background")  # of the logits: those that should be 1, and those that should be 0
PARTS = {(side, level): f"{side}_{level}" for side in SIDES for level in gradient_shares.DIFFICULTIES}


def inputs(study: Study, layout: Layout) -> list[Path]:
    """What the shares of the gradient are read from, and the intervals."""
    return [*gradient_shares.inputs(study, layout), layout.intervals]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Published and measured rows joined on gamma, which rises; a gamma that one side lacks keeps its blanks.

    Columns gamma; published_* (alpha, AP in percent, and the source); experiment, label, alpha, AP, low, high, seeds
    (how many), AP_seed_N for each (percent), images; foreground_hard and so on (shares of the gradient of the first
    seed), easy (share of the logits), left (what the loss leaves of the gradient of plain cross entropy on the same
    logits).
    """
    theirs = comparison.published("focal_loss_1b")[["gamma", "alpha", METRIC, *comparison.SOURCE]]
    theirs = theirs.rename(columns={name: f"published_{name}" for name in theirs if name != "gamma"})
    ours = records.frame(_measured(study, layout))
    return theirs.astype({"gamma": float}).merge(ours, how="outer", on="gamma").sort_values("gamma", kind="stable")


def _measured(study: Study, layout: Layout) -> Iterator[dict[str, Any]]:
    record = records.read_json(layout.intervals)
    for name, rows in gradient_shares.data(study, layout).groupby("experiment", sort=False):
        found = record["experiments"][name][METRIC]
        of_seed = zip(record["seeds"], found["by_seed"], strict=True)
        yield {
            **{key: rows[key].iloc[0] for key in ("gamma", "experiment", "label", "alpha", "images")},
            METRIC: records.percent(found["value"]),
            **{end: records.percent(found[end]) for end in ("low", "high")},
            "seeds": len(record["seeds"]),
            **{f"{METRIC}_seed_{seed}": records.percent(value) for seed, value in of_seed},
            **_shares(rows),
            "left": _left(layout, str(name)),
        }


def _shares(rows: "DataFrame") -> dict[str, float]:
    """Of the gradient by what a logit should be and how hard it is; and of all logits, those that are easy."""
    side = rows["set"].where(rows["set"] == "foreground", "background")
    sums = rows.groupby([side, "difficulty"])["gradient"].sum().round(9)
    easy = rows.loc[rows["difficulty"] == "easy", "logits"].sum()
    return {name: sums[part] for part, name in PARTS.items()} | {"easy": round(easy, 9)}


def _left(layout: Layout, experiment: str) -> float:
    """Size of the gradient over that of plain cross entropy, which the record has in the gradient's unit."""
    table = records.read_csv(layout.gradient_shares(experiment), ("by", "gradient", "cross_entropy"))
    sums = table.loc[table["by"] == "difficulty", ["gradient", "cross_entropy"]].sum()
    return round(float(sums["gradient"] / sums["cross_entropy"]), 9)


def measured(data: "DataFrame") -> "DataFrame":
    """The rows that this study has."""
    return data.dropna(subset=["experiment"])


def answer(data: "DataFrame") -> str:
    """In words: the best γ of either side, and where the greatest one stands."""
    sides = {"Published": f"published_{METRIC}", "Here": METRIC}
    return " ".join(_best(data.dropna(subset=[column]), column, name) for name, column in sides.items())


def _best(rows: "DataFrame", column: str, side: str) -> str:
    rising = rows[["gamma", column]].sort_values(column).to_numpy()
    by_gamma = {float(gamma): float(value) for gamma, value in rising}  # the better one of two with the same gamma
    best, greatest = float(rising[-1, 0]), max(by_gamma)
    words = f"{side}, AP is highest at γ = {best:g} ({by_gamma[best]:.1f})"
    if best == greatest:
        return f"{words}, the greatest γ."
    return f"{words}, and {by_gamma[best] - by_gamma[greatest]:.1f} points lower at γ = {greatest:g}."


def caption(study: Study, data: "DataFrame") -> str:
    """Say what each panel shows, what differs beside gamma, and how small this study is."""
    source, rows = data.dropna(subset=["published_AP"]).iloc[0], measured(data)
    seeds = int(rows["seeds"].iloc[0])
    runs = f"means of {seeds} seeds (dots)" if seeds > 1 else "one run each"
    share = "; the shares are of the first seed" if seeds > 1 else ""
    elsewhere = "" if captions.is_coco(study) else ", on other data with a small network and few steps"
    interval = "seeds and images" if study.intervals and study.intervals.over == "seeds_and_images" else "images alone"
    return (
        f"Is a greater γ better? {answer(data)} Upper left: {source['published_paper']}, table "
        f"{source['published_table']}, {source['published_data']}, {source['published_setting']}. Upper right: this "
        f"study{elsewhere}; {runs}, with 95 % intervals over {interval}. α, below each γ, differs between them: "
        "neither side is a comparison of γ alone. Lower right: shares of the gradient of the classification loss, of "
        "logits that should be 1 (foreground) and 0 (background, with the other classes of foreground anchors); hard: "
        f"p_t up to {gradient_shares.HARD:g}, easy: above {gradient_shares.EASY:g}{share}. Of the size of plain cross "
        f"entropy's gradient on the same logits, the loss leaves {_range(rows)}. "
        + captions.about(study, f"measured on {rows['images'].iloc[0]:,.0f} validation images", study.seeds)
    )


def _range(rows: "DataFrame") -> str:
    ends = rows[["left", "gamma"]].iloc[[0, -1]].to_numpy()
    return " and ".join(f"{left:.2g} at γ = {gamma:g}" for left, gamma in ends)


def table(data: "DataFrame") -> list[Column]:
    """Both sides by gamma, and where the measured gradient comes from, in percent of it."""
    accuracy = estimates(data[METRIC], data["low"], data["high"], ".1f")
    background = data[[name for (side, _), name in PARTS.items() if side == "background"]].sum(axis=1, min_count=1)
    hard = data[[name for (_, level), name in PARTS.items() if level == "hard"]].sum(axis=1, min_count=1)
    published = f"published: {data['published_data'].dropna().iloc[0]}"
    return [
        Column("", "γ", numbers(data["gamma"], "g")),
        Column(published, "α", numbers(data["published_alpha"], "g")),
        Column(published, METRIC, numbers(data[f"published_{METRIC}"], ".1f")),
        Column("measured", "α", numbers(data["alpha"], "g")),
        Column("measured", f"{METRIC} (interval)", accuracy),
        Column("gradient, percent", "of background", numbers(100 * background, ".0f")),
        Column("gradient, percent", "of hard logits", numbers(100 * hard, ".0f")),
        Column("gradient, percent", "left of cross entropy's", numbers(100 * data["left"], ".2g")),
        Column("logits, percent", "easy", numbers(100 * data["easy"], ".1f")),
    ]


def draw(data: "DataFrame") -> "Figure":
    """Published beside measured AP, and below the measured one the shares of its gradient."""
    figure, (published, ours, legend, gradient) = style.canvas(5.2, 2, 2)
    theirs, rows = data.dropna(subset=["published_AP"]).drop_duplicates("gamma"), measured(data)
    published.plot(range(len(theirs)), theirs["published_AP"], "o-", color=style.COLOURS[0])
    published.set_title(f"published: {theirs['published_data'].iloc[0]}", fontsize=9)
    _ticks(published, theirs, "published_alpha")
    _intervals(ours, rows)
    _ticks(ours, rows, "alpha")
    for place, (_, row) in enumerate(rows.iterrows()):
        _bar(gradient, place, {part: row[name] for part, name in PARTS.items()})
    _ticks(gradient, rows, "alpha")
    gradient.set(ylim=(0, 1), ylabel="share of the gradient")
    gradient.grid(False, axis="x")
    for axes in (published, ours):
        axes.set_ylabel("AP, percent")
        axes.margins(y=0.15)
    style.legend_in(legend, gradient, loc="center", title="share of the gradient of", reverse=True)
    return figure


def _ticks(axes: "Axes", rows: "DataFrame", alpha: str) -> None:
    """A place for each row, with its gamma and its alpha."""
    names = [f"γ {gamma:g}" + ("" if math.isnan(a) else f"\nα {a:g}") for gamma, a in rows[["gamma", alpha]].to_numpy()]
    axes.set_xticks(range(len(rows)), names, fontsize=7.5)
    axes.set_xlim(-0.5, len(rows) - 0.5)


def _intervals(axes: "Axes", rows: "DataFrame") -> None:
    """The mean of the seeds with its interval, and each seed as a dot."""
    places = range(len(rows))
    axes.vlines(places, rows["low"], rows["high"], color=style.COLOURS[1])
    axes.plot(places, rows[METRIC], "s-", color=style.COLOURS[1])
    if rows["seeds"].iloc[0] > 1:
        beside = [place - 0.16 for place in places]
        for of_seed in rows.filter(regex=f"^{METRIC}_seed_").to_numpy().T:
            axes.plot(beside, of_seed, "o", color="black", markersize=2.5)
    axes.set_title("this study, 95 % intervals", fontsize=9)


def _bar(axes: "Axes", place: int, shares: dict[tuple[str, str], float]) -> None:
    """Foreground at the bottom and hard below easy."""
    bottom = 0.0
    for (side, level), share in shares.items():
        axes.bar(
            place,
            share,
            0.6,
            bottom=bottom,
            label="" if place else f"{side}, {level}",
            **gradient_shares.look(side, level),
        )
        bottom += share

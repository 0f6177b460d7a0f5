"""Is a greater γ better? Published and measured AP by γ, and the shares of the gradient behind the measured one."""

from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.evaluation.holm import holm
from imbdet.figures import captions, comparison, gradient_shares, records, style
from imbdet.figures.tables import Column, estimates, numbers, p_values
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

METRIC = "AP"
KEYS = ["gamma", "alpha"]
GAINS = {"difference": "gain", "low": "gain_low", "high": "gain_high", "p_holm": "gain_p_holm"}
Looks = Mapping[str, Mapping[str, Any]]  # by alpha: colour, dashes and marker
STEP = 0.25  # between places of one gamma, of which each gamma has 1
MARKERS = "os^Dv"
SIZE = 4.5  # points, of a marker
SIDES = ("foreground", "background")  # of the logits: those that should be 1, and those that should be 0
PARTS = {(side, level): f"{side}_{level}" for side in SIDES for level in gradient_shares.DIFFICULTIES}


def inputs(study: Study, layout: Layout) -> list[Path]:
    """What the shares of the gradient are read from, and the intervals."""
    return [*gradient_shares.inputs(study, layout), layout.intervals]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Published and measured rows joined on gamma and alpha, which rise; what one side lacks keeps its blanks there.

    Columns gamma, alpha; published_* (AP in percent, and the source); experiment, label, AP, low, high, seeds (how
    many), AP_seed_N for each (percent), images; foreground_hard and so on (shares of the gradient of the first seed),
    easy (share of the logits), left (what the loss leaves of the gradient of plain cross entropy on the same logits);
    gain, gain_low, gain_high (AP less that of gamma 0 with the same alpha, in points, where the intervals compare the
    two) and gain_p_holm, with Holm's correction for all of these gains.
    """
    theirs = comparison.published("focal_loss_1b")[[*KEYS, METRIC, *comparison.SOURCE]]
    theirs = theirs.rename(columns={name: f"published_{name}" for name in theirs if name not in KEYS})
    record = records.read_json(layout.intervals)
    ours = _with_gains(records.frame(_measured(study, layout, record)), record)
    both = theirs.astype(dict.fromkeys(KEYS, float)).merge(ours, how="outer", on=KEYS)
    return both.sort_values(KEYS, kind="stable", ignore_index=True)


def _measured(study: Study, layout: Layout, record: records.Record) -> Iterator[dict[str, Any]]:
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


def _with_gains(rows: "DataFrame", record: records.Record) -> "DataFrame":
    """The rows with their differences from gamma 0 of the same alpha, as far as the record has them."""
    plain = rows[rows["gamma"] == 0].drop_duplicates("alpha").set_index("alpha")["experiment"]
    found = {
        name: gain
        for name, gamma, alpha in rows[["experiment", *KEYS]].to_numpy()
        if gamma > 0 and alpha in plain and (gain := records.difference(record, name, plain[alpha], METRIC))
    }
    for gain, p_holm in zip(found.values(), holm([gain["p"] for gain in found.values()]), strict=True):
        gain["p_holm"] = float(p_holm)
    gains = records.frame(found.get(name, {}) for name in rows["experiment"])
    return rows.join(gains.reindex(columns=list(GAINS)).astype(float).rename(columns=GAINS))


def measured(data: "DataFrame") -> "DataFrame":
    """The rows that this study has."""
    return data.dropna(subset=["experiment"])


def answer(data: "DataFrame") -> str:
    """In words: the best γ of either side, where the greatest one stands, and which gains are more than chance."""
    sides = {"Published": f"published_{METRIC}", "Here": METRIC}
    best = [_best(data.dropna(subset=[column]), column, name) for name, column in sides.items()]
    gains = data.dropna(subset=["gain"])
    if gains.empty:
        return " ".join(best)
    sure = gains[gains["gain_p_holm"] < records.SIGNIFICANT]
    named = "; ".join(
        f"α = {alpha:g}: "
        + ", ".join(f"{gain:+.1f} at γ = {gamma:g}" for gamma, gain in rows[["gamma", "gain"]].to_numpy())
        for alpha, rows in sure.groupby("alpha", dropna=False)
    )
    told = (
        f"{len(sure)} of {len(gains)} differences from γ = 0 with the same α are more than chance explains, after "
        f"Holm's correction for these{': ' if named else ''}{named.replace('-', '−')}."
    )
    return " ".join([*best, told])


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
        f"study{elsewhere}; {runs}, with 95 % intervals over {interval}. Points of one α are joined: they differ in γ "
        f"alone. {_beside(rows)}Lower right: shares of the gradient of the classification loss, of logits that "
        "should be 1 (foreground) and 0 (background, with the other classes of foreground anchors); hard: "
        f"p_t up to {gradient_shares.HARD:g}, easy: above {gradient_shares.EASY:g}{share}. Of the size of plain cross "
        f"entropy's gradient on the same logits, the loss leaves {_range(rows)}. "
        + captions.about(study, f"measured on {rows['images'].iloc[0]:,.0f} validation images", study.seeds)
    )


def _beside(rows: "DataFrame") -> str:
    """What to know of hollow points, and of several α with one γ."""
    hollow = "Hollow ones are not told from γ = 0 with the same α at 5 % after Holm's correction. "
    order = "The α of one γ rise from left to right. "
    return ("" if rows["gain"].isna().all() else hollow) + (order if rows["gamma"].duplicated().any() else "")


def _range(rows: "DataFrame") -> str:
    """What the smallest and the greatest γ leave, the smallest share where several α have it."""
    left = rows.groupby("gamma")["left"].min()
    return " and ".join(f"{left[gamma]:.2g} at γ = {gamma:g}" for gamma in (left.index[0], left.index[-1]))


def table(data: "DataFrame") -> list[Column]:
    """Both sides by gamma and alpha, and where the measured gradient comes from, in percent of it."""
    accuracy = estimates(data[METRIC], data["low"], data["high"], ".1f")
    gains = estimates(data["gain"], data["gain_low"], data["gain_high"], "+.1f")
    compared = [
        Column("measured", "less γ 0 of this α (interval)", gains),
        Column("measured", "p (Holm)", p_values(data["gain_p_holm"], [False] * len(data))),
    ]
    background = data[[name for (side, _), name in PARTS.items() if side == "background"]].sum(axis=1, min_count=1)
    hard = data[[name for (_, level), name in PARTS.items() if level == "hard"]].sum(axis=1, min_count=1)
    published = f"published: {data['published_data'].dropna().iloc[0]}"
    return [
        Column("", "γ", numbers(data["gamma"], "g")),
        Column("", "α", numbers(data["alpha"], "g")),
        Column(published, METRIC, numbers(data[f"published_{METRIC}"], ".1f")),
        Column("measured", f"{METRIC} (interval)", accuracy),
        *([] if data["gain"].isna().all() else compared),
        Column("gradient, percent", "of background", numbers(100 * background, ".0f")),
        Column("gradient, percent", "of hard logits", numbers(100 * hard, ".0f")),
        Column("gradient, percent", "left of cross entropy's", numbers(100 * data["left"], ".2g")),
        Column("logits, percent", "easy", numbers(100 * data["easy"], ".1f")),
    ]


def draw(data: "DataFrame") -> "Figure":
    """Published beside measured AP, and below the measured one the shares of its gradient."""
    figure, (published, ours, legend, gradient) = style.canvas(5.4, 2, 2)
    theirs, rows = data.dropna(subset=["published_AP"]).drop_duplicates(KEYS), measured(data)
    alphas = sorted(data["alpha"].unique())
    looks = {
        f"{alpha:g}": {**look, "marker": marker}
        for alpha, look, marker in zip(alphas, style.ordered(len(alphas)), cycle(MARKERS), strict=False)
    }
    published.set_title(f"published: {theirs['published_data'].iloc[0]}", fontsize=9)
    ours.set_title("this study, 95 % intervals", fontsize=9)
    _curves(published, theirs, "published_AP", looks)
    _curves(ours, rows, METRIC, looks)
    _intervals(ours, rows, looks)
    several = rows["gamma"].duplicated().any()
    for place, (_, row) in zip(_places(rows), rows.iterrows(), strict=True):
        _bar(gradient, place, 0.9 * STEP if several else 0.6, {part: row[name] for part, name in PARTS.items()})
    for axes, shown in ((published, theirs), (ours, rows), (gradient, rows)):
        _ticks(axes, shown)
    gradient.set(ylim=(0, 1), ylabel="share of the gradient")
    gradient.grid(False, axis="x")
    for axes in (published, ours):
        axes.set_ylabel("AP, percent")
        axes.margins(y=0.15)
    _legends(legend, looks)
    return figure


def _places(rows: "DataFrame") -> "Series[Any]":
    """A place for each gamma, and about it the alphas beside each other."""
    by_gamma = rows.groupby("gamma")["gamma"]
    return by_gamma.ngroup() + STEP * (by_gamma.cumcount() - (by_gamma.transform("size") - 1) / 2)


def _ticks(axes: "Axes", rows: "DataFrame") -> None:
    """Each gamma, and its alpha where it has one."""
    names = [
        f"γ {gamma:g}" + (f"\nα {alphas.iloc[0]:g}" if len(alphas) == 1 and alphas.notna().all() else "")
        for gamma, alphas in rows.groupby("gamma")["alpha"]
    ]
    axes.set_xticks(range(len(names)), names, fontsize=7.5)
    axes.set_xlim(-0.5, len(names) - 0.5)


def _curves(axes: "Axes", rows: "DataFrame", column: str, looks: Looks) -> None:
    """A curve for each alpha."""
    places = _places(rows)
    for alpha, own in rows.groupby("alpha", dropna=False):
        axes.plot(places[own.index], own[column], **looks[f"{alpha:g}"], markersize=SIZE)


def _intervals(axes: "Axes", rows: "DataFrame", looks: Looks) -> None:
    """The interval of each mean, and each seed as a dot beside it; hollow what nothing tells from gamma 0."""
    places = _places(rows)
    untold = rows["gain_p_holm"] >= records.SIGNIFICANT
    for (_, row), place, hollow in zip(rows.iterrows(), places, untold, strict=True):
        look = looks[f"{row['alpha']:g}"]
        axes.vlines(place, row["low"], row["high"], colors=look["color"])
        if hollow:
            fill: dict[str, Any] = {**look, "linestyle": "", "markerfacecolor": "white", "zorder": 3}
            axes.plot(place, row[METRIC], markersize=SIZE, **fill)
    if rows["seeds"].iloc[0] > 1:
        for of_seed in rows.filter(regex=f"^{METRIC}_seed_").to_numpy().T:
            axes.plot(places - 0.4 * STEP, of_seed, "o", color="black", markersize=1.8)


def _bar(axes: "Axes", place: float, width: float, shares: dict[tuple[str, str], float]) -> None:
    """Foreground at the bottom and hard below easy."""
    bottom = 0.0
    for (side, level), share in shares.items():
        axes.bar(place, share, width, bottom=bottom, **gradient_shares.look(side, level))
        bottom += share


def _legends(axes: "Axes", looks: Looks) -> None:
    """What the curves are, above what the bars are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    curves = [Line2D([], [], label=f"α {alpha}", markersize=SIZE, **look) for alpha, look in looks.items()]
    parts = [Patch(label=f"{side}, {level}", **gradient_shares.look(side, level)) for side, level in reversed(PARTS)]
    axes.set_axis_off()
    axes.add_artist(
        axes.legend(handles=curves, loc="upper center", ncols=len(curves), fontsize=8, title="upper panels")
    )
    axes.legend(handles=parts, loc="lower center", fontsize=8, title="share of the gradient of")

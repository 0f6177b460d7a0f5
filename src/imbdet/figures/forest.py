"""Every difference between a method and its baseline with its interval: a forest plot, and the table of AP."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.errors import UserError
from imbdet.figures import captions, records, style
from imbdet.figures.tables import BLANK, Column, intervals, numbers, p_values, text
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

METRIC = "AP"
ROW = 0.21  # inches
COLOUR = style.COLOURS[1]
SEED = "seed_"  # before the number of a seed, in the columns of the seeds' own differences


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The record of the intervals."""
    return [layout.intervals]


def data(study: Study, layout: Layout) -> "DataFrame":
    """A row for each comparison, after one of its baseline alone; AP and differences in percent.

    Columns baseline, baseline_label, detector, experiment, label, AP, AP_low, AP_high; difference, low, high, p_holm,
    p_is_bound (whether it may be smaller, but for the number of resamples), smallest_effect and, of each seed, seed_N,
    which a baseline lacks; images, resamples, over.
    """
    record = records.read_json(layout.intervals)
    about = {key: record[key] for key in ("images", "resamples", "over")}
    rows = [entry for entry in record["differences"] if entry["metric"] == METRIC]
    if not rows:
        raise UserError(
            f"{layout.intervals} compares nothing; name under intervals.baselines of study {study.name} an experiment "
            "whose detector has others, and make the record again"
        )
    table = []
    for baseline in dict.fromkeys(entry["baseline"] for entry in rows):
        mine = [entry for entry in rows if entry["baseline"] == baseline]
        own = {"baseline": baseline, "baseline_label": record["experiments"][baseline]["label"]}
        table.append({**own, **_accuracy(record, baseline), **about})
        for entry in mine:
            accuracy = _accuracy(record, entry["experiment"])
            table.append({**own, **accuracy, **_difference(entry, record), **about})
    return records.frame(table)


def _accuracy(record: records.Record, name: str) -> dict[str, Any]:
    entry = record["experiments"][name]
    low, high = (records.percent(entry[METRIC][key]) for key in ("low", "high"))
    names = {"detector": entry["detector"], "experiment": name, "label": entry["label"]}
    return {**names, METRIC: records.percent(entry[METRIC]["value"]), "AP_low": low, "AP_high": high}


def _difference(entry: records.Record, record: records.Record) -> dict[str, Any]:
    by_seed = dict(zip(record["seeds"], entry["by_seed"], strict=True))
    return {
        "difference": records.percent(entry["value"]),
        "low": records.percent(entry["low"]),
        "high": records.percent(entry["high"]),
        "p_holm": entry["p_holm"],
        "p_is_bound": entry["p"] <= record["least_p"],
        "smallest_effect": records.percent(entry["smallest_effect"]),
        **{f"{SEED}{seed}": records.percent(value) for seed, value in by_seed.items()},
    }


def caption(study: Study, data: "DataFrame") -> str:
    """Say what an interval is of, what a filled mark means, and what could have been seen."""
    first, seeds = data.iloc[0], len(_seeds(data))
    kept = "one run of each method: another seed would give another difference" if seeds == 1 else "the seeds kept"
    of = captions.RESAMPLED[first["over"]] + ("" if first["over"] == "seeds_and_images" else f" alone, with {kept}")
    dots = f" Small dots are the {seeds} seeds' own differences; the mark is their mean." if seeds > 1 else ""
    return (
        "Difference of each method from its baseline in points of AP, with its interval of 95 %: paired bootstrap of "
        f"{first['resamples']:,} resamples of {of}.{dots} Filled marks differ from the baseline at 5 % after Holm's "
        "correction for all comparisons in the panel, where two baselines stand once, under the first; hollow ones may "
        "not differ at all. The grey band holds differences that would often be missed: a study with such an interval "
        "finds them less often than four times of five, each by itself and so before Holm's correction. "
        + captions.about(study, f"measured on {first['images']:,} validation images", study.seeds)
    )


def _seeds(data: "DataFrame") -> list[str]:
    """Columns of the seeds' own differences."""
    return [column for column in map(str, data) if column.startswith(SEED)]


def table(data: "DataFrame") -> list[Column]:
    """AP and difference, each with its interval, in the order of the comparisons."""
    form = _form(data)
    differences = ["baseline" if cell == BLANK else cell for cell in numbers(data["difference"], f"+{form}")]
    return [
        Column("", "experiment", text(data["label"])),
        Column("", "detector", text(data["detector"].map(captions.detector_name))),
        Column("", METRIC, numbers(data[METRIC], form)),
        Column("", "95 %", intervals(data["AP_low"], data["AP_high"], form)),
        Column("", "difference", differences),
        Column("", "95 %", intervals(data["low"], data["high"], f"+{form}")),
        Column("", "p (Holm)", p_values(data["p_holm"], data["p_is_bound"].eq(True))),
        Column("", "smallest effect", numbers(data["smallest_effect"], form)),
    ]


def _form(data: "DataFrame") -> str:
    """How many digits tell the ends of the narrowest interval apart."""
    return ".1f" if (data["high"] - data["low"]).min() >= 1 else ".2f"


def draw(data: "DataFrame") -> "Figure":
    """A panel for each baseline, a row for each comparison with it."""
    groups = [rows.dropna(subset="difference") for _, rows in data.groupby("baseline", sort=False)]
    heights = [ROW * (len(rows) + 1) + 0.55 for rows in groups]
    figure, panels = style.canvas(sum(heights), len(groups), height_ratios=heights)
    for axes, rows in zip(panels, groups, strict=True):
        _panel(axes, rows, _seeds(data), _form(data))
    return figure


def _panel(axes: "Axes", rows: "DataFrame", seeds: list[str], form: str) -> None:
    first = rows.iloc[0]
    detector = captions.detector_name(first["detector"])
    axes.set_title(f"{detector}: difference from {first['baseline_label']}", fontsize=9)
    axes.axvline(0, color=style.GREY, linewidth=1)
    axes.use_sticky_edges = False  # which would end the axis where a band does
    for place, (_, row) in enumerate(rows.iterrows()):
        effect = row["smallest_effect"]
        axes.barh(place, 2 * effect, left=-effect, height=0.5, color="#e4e4e4", zorder=1.5)
        axes.plot([row["low"], row["high"]], [place, place], color=COLOUR, linewidth=1.5, solid_capstyle="butt")
        face = COLOUR if row["p_holm"] < records.SIGNIFICANT else "white"
        axes.plot(row["difference"], place, "o", color=COLOUR, markerfacecolor=face, markersize=5.5)
        if len(seeds) > 1:
            axes.plot(row[seeds], [place + 0.3] * len(seeds), ".", color=style.COLOURS[2], markersize=3, zorder=3)
        difference, low, high = (f"{row[name]:+{form}}".replace("-", "−") for name in ("difference", "low", "high"))
        axes.text(
            1.01, place, f"{difference}  [{low}, {high}]", transform=axes.get_yaxis_transform(), va="center", fontsize=8
        )
    axes.set_yticks(range(len(rows)), rows["label"])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="points of AP")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")

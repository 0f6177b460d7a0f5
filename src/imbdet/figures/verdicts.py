"""What papers claim, beside what this study measured, and whether the two agree."""

import csv
import math
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.errors import UserError, nearest
from imbdet.evaluation.holm import holm
from imbdet.figures import captions, comparison, records, style
from imbdet.figures.tables import Column, estimates, numbers, p_values, text
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

CLAIMS = comparison.PUBLISHED / "claims.csv"
AGREES, DISAGREES, UNTOLD = "agrees", "disagrees", "cannot tell"
EQUAL = "equal"  # a claim's direction
ROW = 0.5  # inches
LOOKS: dict[str, dict[str, Any]] = {
    AGREES: {"color": style.COLOURS[1], "marker": "o"},
    DISAGREES: {"color": style.COLOURS[2], "marker": "s"},
    UNTOLD: {"color": style.GREY, "marker": "o", "markerfacecolor": "white"},
}
PUBLISHED: dict[str, Any] = {"color": "black", "marker": "D", "markerfacecolor": "none", "markersize": 6, "ls": ""}


def claims(study: Study) -> dict[str, dict[str, Any]]:
    """The rows of ``claims.csv`` that a study wants a verdict of, by their keys; numbers are in points.

    Raises :class:`UserError` with the nearest keys for one that is not there.
    """
    with CLAIMS.open(encoding="utf-8", newline="") as file:
        known = {row.pop("claim"): row for row in csv.DictReader(file)}
    for key in study.report.verdicts:
        if key not in known:
            raise UserError(f"study {study.name}: report.verdicts names no claim {key!r}; {nearest(key, known)}")
    chosen = {key: known[key] for key in study.report.verdicts}
    return {
        key: row | {name: float(row[name]) if row[name] else None for name in ("published", "margin")}
        for key, row in chosen.items()
    }


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The intervals, and what tells two experiments' settings apart; claims are checked before anything runs."""
    claims(study)
    one_stage = map(layout.candidates, _one_stage(study))
    return [layout.intervals, *map(layout.training, _compared(study)), *one_stage]


def _compared(study: Study) -> list[str]:
    """The experiments of all claims, once each."""
    return list(dict.fromkeys(name for pair in study.report.verdicts.values() for name in pair))


def _one_stage(study: Study) -> list[str]:
    """Those of them whose foreground does not hang on proposals."""
    return [name for name in _compared(study) if "dense" in study.experiment(name).methods]


def data(study: Study, layout: Layout) -> "DataFrame":
    """A row for each claim, in the order of the study; differences, intervals and margins are in points.

    Columns: those of claims.csv (data and setting as claimed_data and claimed_setting); experiment, label, baseline,
    baseline_label, detector, candidates and baseline_candidates (how many of an image the head trains on, where that is
    a fixed number), foreground and baseline_foreground (how many anchors of an image the assigner makes foreground, in
    one stage; two sample them), measured_data, images, seeds (how many), over, resamples; difference, low, high, p,
    p_holm, p_is_bound (whether they may be smaller, but for the number of resamples), smallest_effect; verdict, reason.
    Holm's correction is for all claims of the study that say which of two is better.
    """
    rows = list(_rows(study, layout))
    tested = [row for row in rows if row["direction"] != EQUAL]
    for row, p_holm in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = float(p_holm)
    return records.frame(row | dict(zip(("verdict", "reason"), judge(row), strict=True)) for row in rows)


def _rows(study: Study, layout: Layout) -> Iterator[dict[str, Any]]:
    record = records.read_json(layout.intervals)
    label = {name: entry["label"] for name, entry in record["experiments"].items()}
    about = {"measured_data": record["data"], "images": record["images"], "seeds": len(record["seeds"])}
    about |= {key: record[key] for key in ("over", "resamples")}
    foreground = {name: _foreground(layout, name) / record["images"] for name in _one_stage(study)}
    for key, claim in claims(study).items():
        claimed = {f"claimed_{name}" if name in ("data", "setting") else name: value for name, value in claim.items()}
        experiment, baseline = study.report.verdicts[key]
        trained, other = (records.read_json(layout.training(name))["config"] for name in (experiment, baseline))
        detector = trained["detector"]
        yield {
            **{"claim": key, **claimed},
            **{"experiment": experiment, "label": label[experiment]},
            **{"baseline": baseline, "baseline_label": label[baseline]},
            **{"detector": f"{captions.DETECTORS[detector['name']]}, backbone {detector['backbone']}", **about},
            **{"candidates": _candidates(trained), "baseline_candidates": _candidates(other)},
            **{"foreground": foreground.get(experiment), "baseline_foreground": foreground.get(baseline)},
            **_difference(record, experiment, baseline, claim["metric"]),
        }


def _candidates(config: Mapping[str, Any]) -> int | None:
    """How many anchors or proposals of an image the last head trains on; None for all of them."""
    stage = "dense" if "dense" in config["methods"] else "roi"
    method, head = config["methods"][stage], config["detector"].get(stage, {})
    count: int | None = method.get("per_image") or method.get("sampled") or head.get("sampled")
    return count


def _foreground(layout: Layout, experiment: str) -> float:
    """Number of foreground anchors of all validation images."""
    candidates = records.read_csv(layout.candidates(experiment), ("set", "represents"))
    return float(candidates.loc[candidates["set"] == "foreground", "represents"].sum())


def _difference(record: records.Record, experiment: str, baseline: str, metric: str) -> dict[str, Any]:
    """What was measured of the pair of a claim, in points. Raises :class:`UserError` where the record lacks it."""
    found = records.difference(record, experiment, baseline, metric)
    if found is not None:
        return found
    raise UserError(
        f"{record.path} has no difference in {metric} between {experiment} and {baseline}; it is older than the "
        f"study's file: run python -m imbdet intervals config/{record['study']}.yaml again"
    )


def judge(row: Mapping[str, Any]) -> tuple[str, str]:
    """The verdict on a claim, and why.

    Args:
        row: seeds, over; candidates, foreground, and those of the baseline; direction (better, worse or equal);
            difference, low, high; p_holm, p_is_bound, published and smallest_effect, of a claim that one is better;
            margin, of a claim that two are equal. Differences are those of experiment minus baseline, in points.
    """
    verdict, reason = _judge(row)
    own, other = (_count(row[key]) for key in ("candidates", "baseline_candidates"))
    if own != other:
        reason += f"; trained on {own} candidates of an image, the other on {other}"
    own, other = row["foreground"], row["baseline_foreground"]
    if not (_missing(own) or _missing(other) or math.isclose(own, other, rel_tol=0.001)):  # CSV has five digits
        reason += f"; {own:.1f} anchors of an image are its foreground, {other:.1f} the other's"
    return verdict, reason


def _missing(number: float | None) -> bool:
    return number is None or math.isnan(number)


def _count(candidates: float | None) -> str:
    return "all" if _missing(candidates) else f"{candidates:g}"


def _judge(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["seeds"] < 2:
        return UNTOLD, "one run of each: another seed may differ"
    if row["over"] == "images":
        return UNTOLD, "an interval of these very runs: another seed may differ"
    if row["direction"] == EQUAL:
        return _equal(row["low"], row["high"], row["margin"])
    (p,) = p_values([row["p_holm"]], [row["p_is_bound"]])
    p = f"p {p}" if p[0] in "<≤" else f"p = {p}"
    if row["p_holm"] >= records.SIGNIFICANT:
        missed = row["published"] is not None and abs(row["published"]) < row["smallest_effect"]
        reason = "; an effect of the published size would often be missed" if missed else ""
        return UNTOLD, f"{p}: may be chance{reason}"
    if (row["difference"] > 0) == (row["direction"] == "better"):
        return AGREES, f"{p}, in the direction claimed"
    return DISAGREES, f"{p}, in the other direction"


def _equal(low: float, high: float, margin: float) -> tuple[str, str]:
    if -margin <= low and high <= margin:
        return AGREES, f"the whole interval is within ±{margin:g}"
    if low > margin or high < -margin:
        return DISAGREES, f"the whole interval is outside ±{margin:g}"
    return UNTOLD, f"the interval crosses ±{margin:g}"


def caption(study: Study, data: "DataFrame") -> str:
    """Say how a verdict comes about, in plain words, and what it is not."""
    first, margins = data.iloc[0], sorted(data["margin"].dropna().unique())
    drawn = captions.RESAMPLED[first["over"]]
    runs = f"the mean of {first['seeds']} seeds" if first["seeds"] > 1 else "one run of each"
    metric = " (of AP50, where the claim is of mAP at IoU .5)" if "AP50" in set(data["metric"]) else ""
    equal = (
        f"A claim that two are equal agrees if the whole interval is within ±{' or '.join(f'{m:g}' for m in margins)} "
        "points and disagrees if it is wholly outside; the margin is ours, the papers name none. "
        if margins
        else ""
    )
    return (
        f"Claims of papers beside this study, in points of AP{metric}: each difference is that of the first experiment "
        f"minus the second, {runs}, with the 95 % interval of {first['resamples']:,} paired resamples of {drawn}. A "
        "claim agrees or disagrees, by the sign, if p is below .05 after Holm's correction for all of these claims, "
        f"and otherwise this study cannot tell. {equal}With one run of each, or an interval over images alone, the "
        "verdict is always cannot tell: another seed may differ. The smallest effect is what the study would have "
        "found four times of five, each by itself and so before Holm's correction. A verdict speaks of this study's "
        "setting. "
        + ("" if captions.is_coco(study) else "Its own data and small networks make it no replication of any paper. ")
        + captions.about(study, f"measured on {first['images']:,} validation images", study.seeds)
    )


def table(data: "DataFrame") -> list[Column]:
    """Each claim with the verdict, its setting, ours, and both differences."""
    ours = f"measured: {data['measured_data'].iloc[0]}, seeds: {data['seeds'].iloc[0]}"
    differences = estimates(data["difference"], data["low"], data["high"], "+.1f")
    places = [f"table {name}" if str(name)[0].isdigit() else name for name in data["table"]]
    settings = data["paper"] + ", " + places + ": " + data["claimed_data"] + "; " + data["claimed_setting"]
    return [
        Column("", "claim", text(data["statement"])),
        Column("", "verdict", text(data["verdict"])),
        Column("", "why", text(data["reason"])),
        Column("published", "setting", text(settings)),
        Column("published", "difference", numbers(data["published"], "+.1f")),
        Column(ours, "experiments", text(data["label"] + " − " + data["baseline_label"] + "; " + data["detector"])),
        Column(ours, "metric", text(data["metric"])),
        Column(ours, "difference (interval)", differences),
        Column(ours, "smallest effect", numbers(data["smallest_effect"], ".1f")),
    ]


def draw(data: "DataFrame") -> "Figure":
    """A row for each claim: the published difference as a diamond, ours with its interval, the verdict beside it."""
    figure, (axes, legend) = style.canvas(ROW * len(data) + 0.9, 2, height_ratios=(ROW * len(data) + 0.5, 0.4))
    axes.axvline(0, color=style.GREY, linewidth=1)
    for place, (_, row) in enumerate(data.iterrows()):
        look = LOOKS[row["verdict"]]
        axes.plot([row["low"], row["high"]], [place, place], color=look["color"])
        axes.plot(row["difference"], place, linestyle="", markersize=6, **look)
        axes.plot(row["published"], place - 0.2, **PUBLISHED)  # beside ours, where the two are equal
        axes.text(
            1.02,
            place,
            row["verdict"],
            transform=axes.get_yaxis_transform(),
            va="center",
            weight="bold",
            color=look["color"],
        )
    axes.set_yticks(range(len(data)), [_words(row) for _, row in data.iterrows()], fontsize=7)
    axes.set_ylim(len(data) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel("difference, points of AP")
    _legend(legend)
    return figure


def _words(row: "Series[Any]") -> str:
    metric = "" if row["metric"] == "AP" else f", {row['metric']}"
    pair = f"{row['label']} − {row['baseline_label']}{metric}"
    return "\n".join([*textwrap.wrap(row["statement"], 46), *textwrap.wrap(f"[{pair}]", 48)])


def _legend(axes: "Axes") -> None:
    from matplotlib.lines import Line2D

    marks = {"published": PUBLISHED} | {f"ours: {verdict}": look for verdict, look in LOOKS.items()}
    axes.set_axis_off()
    handles = [Line2D([], [], label=name, **{"markersize": 6, **look}) for name, look in marks.items()]
    axes.legend(handles=handles, loc="center", ncols=len(handles), fontsize=8, handlelength=1.6).set_in_layout(False)

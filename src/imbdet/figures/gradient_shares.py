"""Where the gradient of the classification loss comes from, for each gamma of the focal loss."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import captions, comparison, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

HARD, EASY = 0.5, 0.9  # of imbdet.evaluation.inspection, which imports PyTorch; a test compares them
DIFFICULTIES = {"hard": "", "middling": "////", "easy": "\\\\\\\\\\\\"}
SETS = ("foreground", "other classes", "background")
COLUMNS = ("set", "by", "value", "logits", "gradient")
SMALLEST = 0.035  # of a bar, for a number inside it
CROWDED = 8  # with more bars there is no room for numbers, nor for names beside each other


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Shares and evaluation (parameters) of each experiment of the ablation, and the manifest (number of images)."""
    each = [path for name in study.report.gamma for path in (layout.gradient_shares(name), layout.evaluation(name))]
    return [*each, layout.manifest]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns experiment, label, gamma, alpha, set, difficulty, logits and gradient (shares), images; gamma rises."""
    tables = []
    for name in study.report.gamma:
        table = records.read_csv(layout.gradient_shares(name), COLUMNS)
        parameters = comparison.loss_and_parameters(records.read_json(layout.evaluation(name))["method"])
        known = {key: parameters.get(key, float("nan")) for key in ("gamma", "alpha")}
        tables.append(table[table["by"] == "difficulty"].assign(**records.named(layout, name), **known))
    data = records.concat(tables).assign(images=records.images(layout, "val")).rename(columns={"value": "difficulty"})
    order = ["experiment", "label", "gamma", "alpha", "set", "difficulty", "logits", "gradient", "images"]
    return data[order].sort_values("gamma", kind="stable")


def caption(study: Study, data: "DataFrame") -> str:
    """Say what a bar is made of, and how its parts move from the lowest gamma to the highest."""
    first, last = _ends(data)
    kinds = (("hard", "difficulty"), ("easy", "difficulty"), ("foreground", "set"), ("background", "set"))
    ends = first["experiment"], last["experiment"]
    moves = [_move(data[data[column] == name], ends, name, column) for name, column in kinds]
    same = f", at α = {first['alpha']:g}" if first["alpha"] == last["alpha"] else ""
    differs = data["alpha"].nunique(dropna=False) > 1
    alpha = ", and α, which differs between them, shifts weight between foreground and the rest" if differs else ""
    easy = data.loc[data["difficulty"] == "easy"].groupby("experiment")["logits"].sum()
    return (
        "Shares of the gradient of the classification loss by kind of logit, of trained detectors with cross entropy "
        "(γ = 0) and focal loss; the narrow bar beside each shows the shares of the logits themselves. The gradient is "
        "the sum of absolute derivatives with respect to the logits. Foreground: the logit of a foreground anchor's "
        "class; other classes: its other logits; background: all logits of background anchors. A logit is hard where "
        f"p_t ≤ {HARD:g} and easy where p_t > {EASY:g}. From γ = {first['gamma']:g} to γ = {last['gamma']:g}{same}, "
        f"the share of {'; that of '.join(moves)}. Of the logits themselves {easy.min():.1%} or more are easy. Each "
        f"bar is another trained detector: with γ its probabilities move as well{alpha}. {captions.single(study)}"
        + captions.about(study, f"all anchors of {data['images'].iloc[0]:,} validation images")
    )


def _ends(data: "DataFrame") -> tuple["Series[Any]", "Series[Any]"]:
    """A row of the first experiment, of the lowest gamma, and one of the highest, with the same alpha if any."""
    first = data.iloc[0]
    highest = data[data["gamma"] == data["gamma"].max()]
    same = highest[highest["alpha"] == first["alpha"]]
    return first, (same if len(same) else highest).iloc[-1]


def _move(rows: "DataFrame", ends: tuple[str, str], name: str, column: str) -> str:
    """How the share of the gradient of one kind of logits moves from one experiment to another."""
    first, last = (rows.loc[rows["experiment"] == end, "gradient"].sum() for end in ends)
    kind = f"{name} logits" if column == "difficulty" else f"the {name}"
    if f"{first:.0%}" == f"{last:.0%}":
        return f"{kind} stays at {first:.0%}"
    return f"{kind} {'rises' if last > first else 'falls'} from {first:.0%} to {last:.0%}"


def draw(data: "DataFrame") -> "Figure":
    """For each experiment a wide bar of the gradient and a narrow one of the logits; hatched by difficulty."""
    experiments = list(data.groupby("experiment", sort=False))
    crowded = len(experiments) > CROWDED
    figure, (axes, legend) = style.canvas(4.6 if crowded else 3.6, columns=2, width_ratios=(1, 0.36))
    for place, (_, rows) in enumerate(experiments):
        _bar(axes, rows, "gradient", place - 0.12, 0.5, numbers=not crowded)
        _bar(axes, rows, "logits", place + 0.27, 0.14, numbers=False)
    names = [
        (", " if crowded else "\n").join(
            f"{sign} = {value:g}"
            for sign, value in zip("γα", rows[["gamma", "alpha"]].iloc[0], strict=True)
            if not math.isnan(value)
        )
        for _, rows in experiments
    ]
    axes.set_xticks(range(len(experiments)), names, rotation=90 if crowded else 0)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of the gradient (wide) and of the logits (narrow)", fontsize=8)
    axes.grid(False, axis="x")
    _legend(legend)
    return figure


def _bar(axes: "Axes", rows: "DataFrame", column: str, place: float, width: float, numbers: bool) -> None:
    """All kinds of logits on top of each other, foreground at the bottom and hard below easy."""
    shares = rows.set_index(["set", "difficulty"])[column]
    bottom = 0.0
    for kind in SETS:
        for difficulty in DIFFICULTIES:
            share = float(shares[kind, difficulty])
            axes.bar(place, share, width, bottom=bottom, **look(kind, difficulty))
            if numbers and share >= SMALLEST:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
                axes.text(place, bottom + share / 2, f"{share:.0%}", ha="center", va="center", fontsize=7, bbox=box)
            bottom += share


def look(kind: str, difficulty: str) -> dict[str, Any]:
    """How the part of a bar is filled: its colour is the kind of logit, its hatch the difficulty."""
    return {
        "facecolor": style.COLOUR_OF[kind],
        "hatch": DIFFICULTIES[difficulty],
        "edgecolor": "white",
        "linewidth": 0.4,
    }


def _legend(axes: "Axes") -> None:
    """What colours and hatches mean, in the order of the bars from top to bottom."""
    from matplotlib.patches import Patch

    handles = [
        Patch(label=f"{kind}, {difficulty}", **look(kind, difficulty))
        for kind in reversed(SETS)
        for difficulty in reversed(DIFFICULTIES)
    ]
    axes.set_axis_off()
    axes.legend(handles=handles, loc="center left", fontsize=8, handlelength=2, handleheight=1.3)

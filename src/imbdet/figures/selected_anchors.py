"""Which candidates a method selects (Shrivastava et al. 2016; Liu et al. 2016), by how probable their label is."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imbdet.config import Study
from imbdet.figures import captions, inspected, records, style
from imbdet.figures.effective_weight import LEAST, MOST, TICKS
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

KINDS = ("foreground", "background")
OWN = ("p_t", "selected", "represents")
BINS = 18
ALL = 10**6  # candidates: more than there are
HEIGHT = 1.25  # inches


def _experiments(study: Study) -> list[str]:
    """Those of OHEM and, as they may select too, those of the figures across methods."""
    return list(dict.fromkeys([*study.report.ohem, *study.report.methods]))


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Candidates and evaluation (label) of every experiment that may select, and the manifest."""
    return inspected.inputs(layout, _experiments(study))


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns experiment, label, set, selected, from, to (p_t), share (of the set's selected or other), part, images.

    ``part``: what share of the set is selected.
    """
    found = inspected.read(study, layout, _experiments(study), OWN, needs=("selected",), most=ALL)
    edges = _sigmoid(np.linspace(_logit(LEAST), _logit(MOST), BINS + 1))
    rows = []
    for (name, kind), ours in found.groupby(["experiment", "set"], sort=False):
        selected = ours["selected"] > 0
        part = ours.loc[selected, "represents"].sum() / ours["represents"].sum()
        for chosen, which in ((1, ours[selected]), (0, ours[~selected])):
            counts, _ = np.histogram(which["p_t"].clip(edges[0], edges[-1]), edges)
            place = {"experiment": name, "label": ours["label"].iloc[0], "set": kind, "selected": chosen}
            rows += [
                {**place, "from": low, "to": high, "share": count / max(len(which), 1), "part": part}
                for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
            ]
    return records.frame(rows).assign(images=found["images"].iloc[0])


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def _sigmoid(x: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return 1 / (1 + np.exp(-x))


def caption(study: Study, data: "DataFrame") -> str:
    """Say how much is selected, and how hard it is."""
    return (
        "Which candidates are trained on where a method selects them: p_t, the probability that the trained detector "
        "gives to the truth (logistic axis, hard on the left), of the selected and of the others, foreground and "
        "background apart; each histogram is of all candidates of its kind, estimated from a sample, and sums to 1. "
        f"Selected are {_parts(data)}. Candidates are anchors or, in a two-stage detector, the proposals of which the "
        f"method samples. {captions.single(study)}"
        + captions.about(study, f"candidates of {data['images'].iloc[0]:,} validation images")
    )


def _parts(data: "DataFrame") -> str:
    parts = data.groupby(["experiment", "label", "set"], sort=False)["part"].first().reset_index()
    lines = [
        f"{rows['label'].iloc[0]}: "
        + " and ".join(f"{100 * part:.3g}% of the {kind}" for kind, part in zip(rows["set"], rows["part"], strict=True))
        for _, rows in parts.groupby("experiment", sort=False)
    ]
    return "; ".join(lines)


def draw(data: "DataFrame") -> "Figure":
    """A row for each experiment, a column for either kind."""
    experiments = inspected.experiments(data)
    figure, panels, below = style.grid(2 * len(experiments), 2, HEIGHT)
    for row, (label, rows) in enumerate(experiments):
        for column, kind in enumerate(KINDS):
            _histograms(panels[2 * row + column], rows[rows["set"] == kind], f"{label}: {kind}")
    for axes in panels[-2:]:
        axes.set_xlabel("$p_t$")
    for axes in panels[::2]:
        axes.set_ylabel("share")
    style.legend_in(below, panels[0], loc="upper left", ncols=2)
    return figure


def _histograms(axes: "Axes", rows: "DataFrame", title: str) -> None:
    for chosen, name, colour, alpha in (
        (1, "selected", style.COLOURS[3], 0.5),
        (0, "not selected", style.COLOURS[0], 0.0),
    ):
        bars = rows[rows["selected"] == chosen]
        edges = [*bars["from"], bars["to"].iloc[-1]]
        axes.stairs(bars["share"], edges, color=colour, linewidth=1.4, label=name)
        if alpha:
            axes.stairs(bars["share"], edges, color=colour, fill=True, alpha=alpha, linewidth=0)
    axes.set_xscale("logit", nonpositive="clip")
    axes.set_xticks(list(TICKS), list(TICKS.values()), fontsize=7.5)
    axes.minorticks_off()
    axes.set(xlim=(LEAST, MOST), ylim=(0, None))
    axes.tick_params(labelleft=True)
    axes.set_title(f"{title}, {100 * rows['part'].iloc[0]:.3g}% selected", fontsize=8)

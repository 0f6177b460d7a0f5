"""How each method's own loss is spread over the candidates of its trained detector."""

from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import captions, records, style
from imbdet.figures.cumulative_loss import HARD_BACKGROUND, HARD_FOREGROUND, share_of_hardest
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

COLUMNS = ("set", "fraction", "cumulative", "samples")


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Curves and evaluation (label) of one experiment for each method, and the manifest (the number of images)."""
    each = [path for name in study.report.methods for path in (layout.method_loss(name), layout.evaluation(name))]
    return [*each, layout.manifest]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns set, fraction, cumulative, samples, experiment, label, detector, images."""
    curves = [
        records.read_csv(layout.method_loss(name), COLUMNS).assign(**records.named(layout, name))
        for name in study.report.methods
    ]
    return records.concat(curves).assign(images=records.images(layout, "val"))


def caption(study: Study, data: "DataFrame") -> str:
    """Say what was summed and read the extremes of the hardest samples' share off the curves."""
    return (
        "Cumulative normalised classification loss of each method, as it trains, over the candidates of its own "
        "trained detector, easiest first; foreground (left) and background (right, against the fraction of candidates "
        "that are harder still, logarithmic axis); a row for each detector. Candidates are all anchors, or the "
        "proposals that the second stage trains on, and, of methods that select, also those that they leave out. The "
        f"hardest {HARD_FOREGROUND:.0%} of the foreground carry {_range(data, 'foreground', HARD_FOREGROUND)} of its "
        f"loss, the hardest {HARD_BACKGROUND:.1%} of the background {_range(data, 'background', HARD_BACKGROUND)}. "
        "This shows where the loss lies, not how accurate a detector is. "
        + captions.about(
            study, f"up to {data['samples'].max():,} of either kind on {data['images'].iloc[0]:,} validation images"
        )
    )


def _range(data: "DataFrame", kind: str, share: float) -> str:
    """The least and the most that the hardest candidates carry, and with which method."""
    curves = data[data["set"] == kind].groupby("experiment", sort=False)
    found = [(share_of_hardest(curve, share), curve["label"].iloc[0]) for _, curve in curves]
    ends = [which(found, key=itemgetter(0)) for which in (min, max)]
    return "from " + " to ".join(f"{carried:.0%} ({label})" for carried, label in ends)


def draw(data: "DataFrame") -> "Figure":
    """A row for each detector: foreground, the background's hard tail, and which curve is which."""
    detectors = list(data.groupby("detector", sort=False))
    heights = [max(2.3, 0.19 * (1 + curves["experiment"].nunique())) for _, curves in detectors]
    options = {"width_ratios": style.beside_legend(2, data["label"]), "height_ratios": heights}
    figure, panels = style.canvas(sum(heights), len(detectors), 3, **options)
    for row, (key, curves) in enumerate(detectors):
        detector = captions.detector_name(str(key))
        left, middle, right = panels[3 * row : 3 * row + 3]
        foreground, background = (curves[curves["set"] == kind] for kind in ("foreground", "background"))
        _plot(left, foreground)
        _plot(middle, background.assign(fraction=1 - background["fraction"]))
        left.set(xlim=(0, 1.01), title=f"{detector}: foreground", xlabel="fraction, easiest first")
        left.set_ylabel("cumulative share of the loss")
        middle.set(xscale="log", xlim=(1, 1 / background["samples"].max()), title=f"{detector}: background")
        middle.set_xlabel("fraction of harder candidates")
        style.legend_in(right, left, loc="upper left", handlelength=2.4)
    return figure


def _plot(axes: "Axes", data: "DataFrame") -> None:
    curves = list(data.groupby("experiment", sort=False))
    for look, (_, curve) in zip(style.unordered(len(curves)), curves, strict=True):
        axes.plot(curve["fraction"], curve["cumulative"], label=curve["label"].iloc[0], **look)
    axes.set_ylim(0, 1.02)

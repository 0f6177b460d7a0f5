"""How the focal loss of a trained detector is spread over its samples (Lin et al. 2017, figure 4)."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imbdet.config import Study
from imbdet.figures import captions, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

COLUMNS = ("set", "gamma", "fraction", "cumulative", "samples")
HARD_FOREGROUND, HARD_BACKGROUND = 0.2, 0.001


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The curves of one experiment, its evaluation (label) and the manifest (the number of images)."""
    (name,) = study.report.cumulative_loss
    return [layout.cumulative_loss(name), layout.evaluation(name), layout.manifest]


def data(study: Study, layout: Layout) -> "DataFrame":
    """The experiment's curves as they are, with its label and the number of images that were sampled."""
    (name,) = study.report.cumulative_loss
    curves = records.read_csv(layout.cumulative_loss(name), COLUMNS)
    label = records.read_json(layout.evaluation(name))["label"]
    return curves.assign(label=label, images=records.images(layout, "val"))


def caption(study: Study, data: "DataFrame") -> str:
    """Say what was sampled and read the hardest samples' share off the curves."""
    samples = data.groupby("set")["samples"].first()
    first = data.iloc[0]
    return (
        f"Cumulative normalised focal loss of one trained detector ({first['label']}) over its foreground (left, "
        f"{samples['foreground']:,} samples) and background (middle, {samples['background']:,} samples), easiest "
        "samples first; the same samples serve every γ, and α cancels within each set. The hardest "
        f"{HARD_FOREGROUND:.0%} of the foreground carry {_shares(data, 'foreground', HARD_FOREGROUND)} of its loss, "
        f"the hardest {HARD_BACKGROUND:.1%} of the background {_shares(data, 'background', HARD_BACKGROUND)}. On "
        "the right the background again, against the fraction of samples that are harder still (logarithmic axis). "
        "This shows where the loss lies, not how accurate the detector is. "
        + captions.about(study, f"sampled on {first['images']:,} validation images")
    )


def share_of_hardest(curve: "DataFrame", share: float) -> float:
    """Return the part of the loss that the hardest ``share`` of the samples carries, from one set and gamma."""
    return 1 - float(np.interp(1 - share, curve["fraction"], curve["cumulative"]))


def _shares(data: "DataFrame", name: str, share: float) -> str:
    curves = data[data["set"] == name].groupby("gamma")
    return ", ".join(f"{share_of_hardest(curve, share):.0%} (γ = {gamma:g})" for gamma, curve in curves)


def draw(data: "DataFrame") -> "Figure":
    """Foreground and background on linear axes, and the background again with its hard tail stretched."""
    figure, (left, middle, right) = style.canvas(3.1, columns=3, sharey=True)
    foreground, background = (data[data["set"] == name] for name in ("foreground", "background"))
    for axes, name, curves in ((left, "foreground", foreground), (middle, "background", background)):
        _plot(axes, curves)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.02), title=name, xticks=(0, 0.5, 1), xlabel="fraction, easiest first")
    _plot(right, background.assign(fraction=1 - background["fraction"]))
    one_sample = 1 / background["samples"].iloc[0]
    right.set(xscale="log", xlim=(1, one_sample), title="background, hard tail", xlabel="fraction of harder samples")
    left.set_ylabel("cumulative share of the loss")
    left.legend(loc="upper left")
    return figure


def _plot(axes: "Axes", data: "DataFrame") -> None:
    curves = list(data.groupby("gamma"))
    for look, (gamma, curve) in zip(style.ordered(len(curves)), curves, strict=True):
        axes.plot(curve["fraction"], curve["cumulative"], label=f"γ = {gamma:g}", **look)

"""The training loss of every experiment of a study."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import captions, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

WINDOW = 0.1  # share of a training over which its loss is averaged
POINTS = 200  # kept of a curve at most
NOT_LOSSES = ("step", "learning_rate", "total")
PREFIXES = {"rpn_": "RPN", "roi_": "RoI"}  # of the terms of a detector with two stages
TERMS = {"classification": "classification", "box_regression": "box regression"}  # which all methods have
HEIGHT = 2.2  # inches, of a row of panels


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Loss curve and evaluation (label) of each experiment, and the manifest (the number of images)."""
    each = [path for name in study.experiments for path in (layout.loss_curve(name), layout.evaluation(name))]
    return [*each, layout.manifest]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns experiment, label, detector, term, step, loss (mean over a tenth of the training around it), images."""
    images = records.images(layout, "train")
    return records.concat(_smoothed(layout, name) for name in study.experiments).assign(images=images)


def _smoothed(layout: Layout, name: str) -> "DataFrame":
    path = layout.loss_curve(name)
    curve = records.read_csv(path, NOT_LOSSES)
    window = max(1, round(WINDOW * len(curve)))
    terms = curve.set_index("step").drop(columns=["learning_rate", "total"])
    smooth = terms.rolling(window, center=True, min_periods=1).mean().iloc[:: -(-len(terms) // POINTS)]
    long = smooth.melt(var_name="term", value_name="loss", ignore_index=False).reset_index()
    about = records.named(layout, name)
    return long.assign(**about)[[*about, "term", "step", "loss"]]


def caption(study: Study, data: "DataFrame") -> str:
    """Say what must not be read from the curves."""
    further = [name.replace("_", " ") for name in _rest(data["term"])]
    more = (
        f" Terms that only some methods have stand on the right ({', '.join(further)}; linear axis)." if further else ""
    )
    return (
        f"Training losses by step (logarithmic axis), running mean over {WINDOW:.0%} of the training; a row for each "
        f"stage of each detector.{more} Values of different methods are on different scales, since α and γ rescale the "
        "classification loss, and so do selections and weights: compare the shapes of the curves, and accuracies only "
        "in the table of results. " + captions.about(study, f"trained on {data['images'].iloc[0]:,} images")
    )


def _stage(term: str) -> tuple[str, str]:
    """The prefix of a term and its name without it."""
    prefix = next((prefix for prefix in PREFIXES if term.startswith(prefix)), "")
    return prefix, term.removeprefix(prefix)


def _rest(terms: "Iterable[str]") -> list[str]:
    """The terms, without their prefixes, that not all methods have."""
    return list(dict.fromkeys(name for _, name in map(_stage, terms) if name not in TERMS))


def draw(data: "DataFrame") -> "Figure":
    """A row for each stage of each detector: the common terms, where there are some the others, and the legend."""
    rows = [
        (detector, prefix, curves)
        for detector, curves in data.groupby("detector", sort=False)
        for prefix in dict.fromkeys(_stage(term)[0] for term in curves["term"].unique())
    ]
    widths = style.beside_legend(3 if _rest(data["term"]) else 2, data["label"])
    heights = [max(HEIGHT, 0.175 * (1 + curves["experiment"].nunique())) for _, _, curves in rows]
    options = {"width_ratios": widths, "height_ratios": heights}
    figure, panels = style.canvas(sum(heights), len(rows), len(widths), **options)
    for place, (detector, prefix, curves) in enumerate(rows):
        first = place == 0 or rows[place - 1][0] != detector
        of_row = panels[place * len(widths) : (place + 1) * len(widths)]
        stage = f"\n{PREFIXES[prefix]}" if prefix else ""
        _row(of_row, curves, prefix, f"{captions.detector_name(str(detector))}{stage}", legend=first)
    return figure


def _row(panels: "list[Axes]", curves: "DataFrame", prefix: str, name: str, legend: bool) -> None:
    """One stage: a panel for each common term and, where the figure has room for it, one for all others."""
    labels = dict(zip(curves["experiment"], curves["label"], strict=True))
    looks = dict(zip(labels, style.unordered(len(labels)), strict=True))
    mine = [term for term in curves["term"].unique() if _stage(term)[0] == prefix]
    others = [term for term in mine if _stage(term)[1] in _rest(mine)]
    groups = [([f"{prefix}{term}"], title) for term, title in TERMS.items()]
    if len(panels) > len(TERMS) + 1:
        groups.append((others, ", ".join(_rest(mine)).replace("_", " ")))
    for axes, (terms, title) in zip(panels, groups, strict=False):
        for (experiment, _), curve in curves[curves["term"].isin(terms)].groupby(["experiment", "term"], sort=False):
            axes.plot(curve["step"], curve["loss"], label=labels[experiment], **looks[experiment])
        axes.set(xlabel="step")
        axes.set_title(title, fontsize=9)
        axes.set_xlim(left=0)
        if not terms:
            axes.set_axis_off()
        elif terms is not others:
            _logarithmic(axes)
    panels[0].set_ylabel(f"{name} loss")
    panels[-1].set_axis_off()
    if legend:
        style.legend_in(panels[-1], panels[0], loc="upper left", handlelength=2.4)


def _logarithmic(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())

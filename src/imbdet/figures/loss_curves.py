"""The training loss of every experiment of a study."""

from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.figures import captions, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

WINDOW = 0.1  # share of a training over which its loss is averaged
POINTS = 200  # kept of a curve at most
NOT_LOSSES = ("step", "learning_rate", "total")


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Loss curve and evaluation (label) of each experiment, and the manifest (the number of images)."""
    each = [path for name in study.experiments for path in (layout.loss_curve(name), layout.evaluation(name))]
    return [*each, layout.manifest]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns experiment, label, term, step, loss (running mean over a tenth of the training), images."""
    images = records.images(layout, "train")
    return records.concat(_smoothed(layout, name) for name in study.experiments).assign(images=images)


def _smoothed(layout: Layout, name: str) -> "DataFrame":
    path = layout.loss_curve(name)
    curve = records.read_csv(path, NOT_LOSSES)
    window = max(1, round(WINDOW * len(curve)))
    terms = curve.set_index("step").drop(columns=["learning_rate", "total"])
    smooth = terms.rolling(window, center=True, min_periods=1).mean().iloc[:: -(-len(terms) // POINTS)]
    long = smooth.melt(var_name="term", value_name="loss", ignore_index=False).reset_index()
    label = records.read_json(layout.evaluation(name))["label"]
    return long.assign(experiment=name, label=label)[["experiment", "label", "term", "step", "loss"]]


def caption(study: Study, data: "DataFrame") -> str:
    """Say what must not be read from the curves."""
    return (
        f"Training losses by step (logarithmic axis), running mean over {WINDOW:.0%} of the training. Values of "
        "different methods are on different scales, since α and γ rescale the classification loss: compare the shapes "
        "of the curves, and accuracies only in the table of results. "
        + captions.about(study, f"trained on {data['images'].iloc[0]:,} images")
    )


def draw(data: "DataFrame") -> "Figure":
    """One panel for each term of the loss, one curve for each experiment, one legend below."""
    from matplotlib.ticker import LogLocator, NullFormatter

    terms = list(data["term"].unique())
    labels = dict(zip(data["experiment"], data["label"], strict=True))
    rows = -(-len(labels) // 4)
    figure, panels = style.canvas(3.0 + 0.2 * rows, 2, len(terms), height_ratios=(3.0, 0.2 * rows))
    for axes, term in zip(panels, terms, strict=False):
        for look, name in zip(style.unordered(len(labels)), labels, strict=True):
            curve = data[(data["term"] == term) & (data["experiment"] == name)]
            axes.plot(curve["step"], curve["loss"], label=labels[name], **look)
        axes.set(yscale="log", xlabel="step", title=term.replace("_", " "))
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("loss")
    for axes in panels[len(terms) :]:
        axes.set_axis_off()
    style.legend_in(panels[len(terms)], panels[0], loc="upper left", ncols=4)
    return figure

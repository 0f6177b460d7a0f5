"""What objects of other classes do to each class, with and without the Equalization Loss (Tan et al. 2020)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.errors import UserError
from imbdet.figures import captions, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

COLUMNS = ("set", "by", "value", "gradient", "cross_entropy")
PUSHES = {"other classes": "objects of other classes", "background": "background"}
NAMED_CLASSES = 24  # more names than this cannot be read beside one another
TAIL = 0.5  # a class is of the tail where more than this share of what other classes' objects do to it is spared


def inputs(study: Study, layout: Layout) -> list[Path]:
    """Candidates, gradient shares and evaluation (label) of each experiment; their detectors' census; the manifest."""
    names = study.report.equalization
    each = [(layout.candidates(name), layout.gradient_shares(name), layout.evaluation(name)) for name in names]
    census = dict.fromkeys(layout.census(study.experiments[name].detector) for name in names)
    return [*(path for paths in each for path in paths), *census, layout.manifest]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns experiment, label, place, name and boxes of each class, suppressed (mean of its rows), set, and forces.

    ``set`` is what pushes the class's logit down: background or objects of other classes. ``cross_entropy`` and
    ``loss`` are the sums of its absolute gradient over that of the class's own objects, which push the logit up, with
    plain cross entropy and with the method. Classes stand from the commonest to the rarest.
    """
    tables = []
    for name in study.report.equalization:
        candidates = records.read_csv(layout.candidates(name), ("set", "class"))
        if "suppressed" in candidates:
            suppressed = candidates[candidates["set"] == "foreground"].groupby("class")["suppressed"].mean()
            classes = records.census_classes(layout.census(study.experiments[name].detector))
            table = forces(records.read_csv(layout.gradient_shares(name), COLUMNS), classes)
            tables.append(table.assign(suppressed=table["class"].map(suppressed), **records.named(layout, name)))
    if not tables:
        raise UserError(
            f"study {study.name}: no experiment of report.equalization has candidates with a column 'suppressed'; name "
            "one with the method equalization or equalization_softmax"
        )
    order = ["experiment", "label", "place", "class", "name", "boxes", "suppressed", "set", "cross_entropy", "loss"]
    return records.concat(tables)[order].assign(images=records.images(layout, "val"))


def forces(shares: "DataFrame", classes: Sequence[Mapping[str, Any]]) -> "DataFrame":
    """What pushes each class down over what pulls it up; ``class`` is its label, by ascending category id."""
    labels = {category: label for label, category in enumerate(sorted(entry["id"] for entry in classes))}
    by_class = shares[shares["by"] == "class"]
    keys = zip(by_class["set"], by_class["value"].astype(int), strict=True)
    known = dict(zip(keys, by_class[["gradient", "cross_entropy"]].to_numpy().tolist(), strict=True))
    rows = []
    for place, entry in enumerate(classes):
        label = labels[entry["id"]]
        up = known["foreground", label]
        for kind in PUSHES:
            loss, plain = (d / u if u else float("nan") for d, u in zip(known[kind, label], up, strict=True))
            about = {"place": place, "class": label, "name": entry["name"], "boxes": entry["boxes"]}
            rows.append({**about, "set": kind, "cross_entropy": plain, "loss": loss})
    return records.frame(rows)


def tail(data: "DataFrame") -> "DataFrame":
    """The rows of other classes' objects with ``tail``, whether the class is of the tail, by what it is spared."""
    others = data[data["set"] == "other classes"]
    return others.assign(tail=1 - others["loss"] / others["cross_entropy"] > TAIL)


def caption(study: Study, data: "DataFrame") -> str:
    """Say what pushes, and how much of it is left for the classes of the tail and for the others."""
    return (
        "Forces on the logit of each class in the second stage of trained detectors: sum of the absolute gradients "
        "that push it down, over the sum that objects of the class itself push it up with (logarithmic axis; what is 0 "
        "stands on the lowest line). Hollow: with plain cross entropy on the same logits; filled: with the "
        "Equalization Loss (Tan et al. 2020, arXiv 2003.05176), which leaves the tail's logits out of foreground rows "
        f"of other classes: {data['suppressed'].min():.2g} to {data['suppressed'].max():.2g} of them in a row. "
        f"{_spared(data)} Rows of background keep all classes. Classes from the commonest on the left to the rarest, "
        f"with their boxes in the training set. {captions.single(study)}"
        + captions.about(study, f"sampled proposals of {data['images'].iloc[0]:,} validation images")
    )


def _spared(data: "DataFrame") -> str:
    sentences = []
    for _, rows in tail(data).groupby("experiment", sort=False):
        parts = []
        for name, side in (("of the tail", rows[rows["tail"]]), ("other", rows[~rows["tail"]])):
            before, after = side["cross_entropy"].median(), side["loss"].median()
            classes = f"class{'' if len(side) == 1 else 'es'}"
            which = f"{len(side)} {name} {classes}" if name == "other" else f"{len(side)} {classes} {name}"
            parts += [f"{which} from {before:.2g} to {after:.2g}"] if len(side) else []
        moves = " and for the ".join(parts)
        label = rows["label"].iloc[0]
        sentences.append(f"{label}: the push of other classes' objects goes, in the median, for the {moves}.")
    return " ".join(sentences)


def draw(data: "DataFrame") -> "Figure":
    """A row for each experiment, and in it a panel for what other classes' objects do and one for background."""
    experiments = list(data.groupby("experiment", sort=False))
    figure, panels, below = style.grid(2 * len(experiments), 2, 2.4, sharey=True)
    values = [value for value in (*data["cross_entropy"], *data["loss"]) if value > 0]
    floor = min(values) / 4
    for row, (_, rows) in enumerate(experiments):
        for axes, (kind, name) in zip(panels[2 * row :], PUSHES.items(), strict=False):
            _panel(axes, rows[rows["set"] == kind], style.COLOUR_OF[kind], floor)
            axes.set_title(f"{rows['label'].iloc[0]}: pushed down by\n{name}", fontsize=9)
        panels[2 * row].set_ylabel("push down / push up")
    lowest, highest = math.floor(math.log10(3 * floor)), math.ceil(math.log10(max(values)))
    digits = (1, 2, 5) if highest - lowest < 4 else (1,)
    ticks = [digit * 10.0**power for power in range(lowest, highest + 1) for digit in digits]
    ticks = [tick for tick in ticks if 2 * floor < tick < 2 * max(values)]
    panels[0].set_yticks([floor, *ticks], ["0", *(f"{tick:g}" for tick in ticks)])
    panels[0].minorticks_off()
    panels[0].set_ylim(floor / 1.5, 2 * max(values))
    style.legend_in(below, panels[0], loc="upper left", ncols=2)
    return figure


def _panel(axes: "Axes", rows: "DataFrame", colour: str, floor: float) -> None:
    before, after = (rows[name].clip(lower=floor) for name in ("cross_entropy", "loss"))
    axes.vlines(rows["place"], after, before, color=colour, linewidth=1, alpha=0.6)
    axes.plot(rows["place"], before, "o", markerfacecolor="white", color=colour, label="plain cross entropy")
    axes.plot(rows["place"], after, "o", color=colour, markersize=4, label="as trained")
    axes.axhline(1, color=style.GREY, linewidth=0.8, zorder=0)
    axes.set(yscale="log")
    axes.grid(False, axis="x")
    if len(rows) <= NAMED_CLASSES:
        names = [f"{name} ({boxes:,})" for name, boxes in zip(rows["name"], rows["boxes"], strict=True)]
        axes.set_xticks(rows["place"], names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    else:
        axes.set_xlabel(f"{len(rows):,} classes, commonest first")

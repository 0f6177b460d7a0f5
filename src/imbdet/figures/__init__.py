"""The figures and tables of a study, each drawn from records alone: no model, no images.

One module a figure, found by its name. Each has four small functions (:class:`Figure`), of which ``draw`` makes a
picture and ``table`` a table; a module may have both. This package imports neither matplotlib nor pandas until
something is drawn, so that the graph of a study is built in a moment.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from imbdet.config import Study
from imbdet.errors import UserError, nearest
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

# Each figure and the list of the study's report that must not be empty for it to be drawn (None: always drawn).
FIGURES: dict[str, str | None] = {
    "focal_loss_pt": None,
    "focal_loss_xt": None,
    "focal_star_xt": None,
    "derivatives": None,
    "structure": None,
    "census": None,
    "loss_curves": None,
    "cumulative_loss": "cumulative_loss",
    "precision_recall": "precision_recall",
    "detections": "detections",
    "results": None,
    "gamma_ablation": "gamma",
    "alpha_ablation": "alpha",
    "focal_star": "focal_star",
}


class Figure(Protocol):
    """What the module of every figure has; beside it ``draw(data) -> Figure``, ``table(data) -> list[Column]`` or both.

    inputs: the records that it reads.
    data: everything that is shown. It is written as CSV, and picture, table and caption come from that CSV alone.
    caption: what is shown, how to read it and where it comes from, in plain text.
    """

    inputs: Callable[[Study, Layout], list[Path]]
    data: "Callable[[Study, Layout], DataFrame]"
    caption: "Callable[[Study, DataFrame], str]"


def figure(name: str) -> Figure:
    """Return the module of a figure, or raise :class:`UserError` with the nearest names."""
    if name not in FIGURES:
        raise UserError(f"no figure {name!r}; {nearest(name, FIGURES)}")
    return cast(Figure, import_module(f"imbdet.figures.{name}"))


def names(study: Study) -> list[str]:
    """Return the figures and tables that this study draws, in the order of a report."""
    return [name for name, key in FIGURES.items() if key is None or getattr(study.report, key)]


def inputs(study: Study, layout: Layout, name: str) -> list[Path]:
    """Return the records that a figure reads."""
    return figure(name).inputs(study, layout)


def outputs(layout: Layout, name: str) -> list[Path]:
    """Return the files that :func:`run` writes: data (CSV), caption (rst), and the picture, the table or both."""
    module = figure(name)
    suffixes = [".csv", ".rst"]
    suffixes += [".png", ".svg"] if hasattr(module, "draw") else []
    suffixes += [".md", ".tex"] if hasattr(module, "table") else []
    return [layout.figures / f"{name}{suffix}" for suffix in suffixes]


def run(study: Study, layout: Layout, name: str) -> None:
    """Draw one figure into ``layout.figures``. Raises :class:`UserError` naming what is missing and how to make it."""
    from imbdet.figures.drawing import redraw

    redraw(study, layout, name, layout.figures)


def check(study: Study, layout: Layout, folder: Path | None = None) -> list[str]:
    """Redraw all figures from the records; return a line for each file in ``folder`` (default: its own) not equal."""
    from imbdet.figures.checking import differences

    return differences(study, layout, layout.figures if folder is None else folder)

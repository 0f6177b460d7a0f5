"""The figures and tables of a study, each drawn from records alone: no model, no images.

One module a figure, found by its name. Each has four small functions (:class:`Figure`), of which ``draw`` makes a
picture and ``table`` a table; a module may have both. This package imports neither matplotlib nor pandas until
something is drawn, so that the graph of a study is built in a moment.
"""

from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from imbdet.config import Study
from imbdet.errors import UserError, nearest
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

Condition = Callable[[Study], object]


def _has(kind: str) -> Condition:
    """Whether a study has a detector of a kind."""
    return lambda study: any(detector.name == kind for detector in study.detectors.values())


def _one_alpha_a_gamma(study: Study) -> bool:
    """Whether an ablation of gamma is of one curve, as the paper's table is; figure ``gamma`` has a curve an alpha."""
    gammas = [study.experiments[name].method.get("gamma", 0) for name in study.report.gamma]
    return len(gammas) == len(set(gammas)) > 0


# Each figure, in the order of a report, and what must be true of a study for it to be drawn (None: always drawn).
FIGURES: dict[str, Condition | None] = {
    "focal_loss_pt": None,
    "focal_loss_xt": None,
    "focal_star_xt": None,
    "derivatives": None,
    "structure": _has("retinanet"),
    "structure_two_stage": _has("faster_rcnn"),
    "census": None,
    "funnel": attrgetter("report.funnel"),
    "loss_curves": None,
    "cumulative_loss": attrgetter("report.cumulative_loss"),
    "method_loss": attrgetter("report.methods"),
    "gradient_shares": attrgetter("report.gamma"),
    "effective_weight": attrgetter("report.methods"),
    "effective_weight_iou": attrgetter("report.methods"),
    "selected_anchors": attrgetter("report.ohem"),
    "cleanliness": attrgetter("report.noisy_anchors"),
    "learned_weights": attrgetter("report.sample_weighting"),
    "prime_ranks": attrgetter("report.pisa"),
    "suppressed_gradients": attrgetter("report.equalization"),
    "precision_recall": attrgetter("report.precision_recall"),
    "error_types": attrgetter("intervals"),
    "score_separation": attrgetter("intervals"),
    "detections": attrgetter("report.detections"),
    "results": None,
    "verdicts": attrgetter("report.verdicts"),
    "forest": attrgetter("intervals"),
    "gamma": lambda study: study.report.gamma and study.intervals,
    "gamma_ablation": _one_alpha_a_gamma,
    "alpha_ablation": attrgetter("report.alpha"),
    "focal_star": attrgetter("report.focal_star"),
    "ohem_table": attrgetter("report.ohem"),
    "equalization_table": attrgetter("report.equalization"),
    "equalization_lambda_table": attrgetter("report.equalization_lambda"),
    "equalization_models_table": attrgetter("report.equalization"),
    "frequency_groups": attrgetter("report.equalization"),
    "noisy_anchors_table": attrgetter("report.noisy_anchors_gain"),
    "pisa_table": attrgetter("report.pisa_gain"),
    "sweep": attrgetter("sweep"),
}
# Of a sweep no run is looked at closely: these show its conditions together.
OF_A_SWEEP = ("sweep",)


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
    drawn = [name for name, condition in FIGURES.items() if condition is None or condition(study)]
    return [name for name in drawn if name in OF_A_SWEEP] if study.sweep else drawn


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

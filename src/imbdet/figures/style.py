"""One look for every picture: told apart in colour, by colour-blind readers and in grey; equal bytes for equal data."""

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

WIDTH = 7.2  # inches; 1080 pixels at 150 dpi
DPI = 150
# Okabe and Ito's colours without the yellow, which is lost on white.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1.2, 1, 1.2, 1, 1.2)))
HATCHES = ("", "////", "....")
SETS = ("foreground", "background", "ignored", "other classes")  # one colour each, wherever they are drawn
COLOUR_OF = dict(zip(SETS, (COLOURS[2], COLOURS[1], COLOURS[5], COLOURS[4]), strict=True))
MARKER_OF = {"foreground": "o", "background": "x"}
GREY = "#555555"
CAPTION_SIZE = 8.0  # points
LEGEND_SIZE = 8.0  # points, of legends beside their panels
_LINE_HEIGHT = 1.35 * CAPTION_SIZE / 72  # inches
_CHARACTER = 0.57 * CAPTION_SIZE / 72  # inches, a little above the mean width of a character of the caption's font
_SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.7,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "svg.hashsalt": "imbdet",  # otherwise the ids inside an SVG are random
    "figure.dpi": DPI,
}


@contextmanager
def applied() -> Iterator[None]:
    """Draw and save with this style alone, whatever the reader's own matplotlib settings are."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def plain(data: "DataFrame") -> "DataFrame":
    """Return data whose words are drawn as they are: matplotlib takes what stands between two ``$`` for a formula."""
    return data.replace(r"\$", r"\\$", regex=True)


def canvas(height: float, rows: int = 1, columns: int = 1, **options: Any) -> "tuple[Figure, list[Axes]]":
    """Return a figure of the common width and its axes in reading order; ``options`` go to ``Figure.subplots``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def grid(
    count: int, columns: int, height: float, below: float = 0.25, **options: Any
) -> "tuple[Figure, list[Axes], Axes]":
    """Return a figure with ``count`` panels of ``height`` inches, its panels, and room for the legend.

    Panels have the same axes, with numbers at the lowest of each column and the first of each row only. The legend goes
    where there is no panel, or else into a row of ``below`` inches.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    heights = [height] * rows + ([below] if rows * columns == count else [])
    figure, axes = canvas(sum(heights), len(heights), columns, height_ratios=heights, **options)
    for place, panel in enumerate(axes):
        panel.tick_params(labelbottom=place + columns >= count, labelleft=place % columns == 0)
        if place >= count:
            panel.set_axis_off()
    return figure, axes[:count], axes[count]


def scatter(axes: "Axes", data: "DataFrame", x: str, y: str, **options: Any) -> None:
    """Draw candidates as points that tell foreground and background apart, the rarer foreground on top.

    In an SVG they are pixels: thousands of marks would make it slow.
    """
    for kind in ("background", "foreground"):
        rows = data[data["set"] == kind]
        look: dict[str, Any] = {"s": 9, "linewidths": 0.7, "alpha": 0.75, "rasterized": True, **options}
        axes.scatter(rows[x], rows[y], color=COLOUR_OF[kind], marker=MARKER_OF[kind], label=kind, **look)


def unordered(count: int) -> list[dict[str, Any]]:
    """Return colours and dashes of up to 35 things without an order, e.g. experiments."""
    return [{"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]} for i in range(count)]


def ordered(count: int) -> list[dict[str, Any]]:
    """Return colours (dark to light) and dashes of things with an order, e.g. values of gamma."""
    from matplotlib import colormaps

    colours = [colormaps["viridis"](0.82 * i / max(count - 1, 1)) for i in range(count)]
    return [{"color": colour, "linestyle": DASHES[i % len(DASHES)]} for i, colour in enumerate(colours)]


def short(count: float) -> str:
    """A count in three digits at most, so that neighbours do not touch."""
    if count >= 1000:
        return f"{count / 1000:.3g}k"
    return f"{count:.0f}" if count >= 100 else f"{count:.2g}"


def beside_legend(columns: int, labels: "Iterable[str]") -> list[float]:
    """Ratios of the widths of ``columns`` panels and of a legend's on their right that has room for its labels."""
    from matplotlib.textpath import TextPath

    text = max(TextPath((0, 0), label, size=LEGEND_SIZE).get_extents().width for label in set(labels))
    legend = 0.6 + text / 72  # inches, with the handles
    panel = (WIDTH - legend) / columns - 0.75  # without its numbers, and its share of the name beside the first
    return [1.0] * columns + [legend / panel]


def legend_in(empty: "Axes", drawn: "Axes", **options: Any) -> None:
    """Put the legend of one panel into another, which is left empty for it; ``options`` go to ``Axes.legend``."""
    empty.set_axis_off()
    legend = empty.legend(*drawn.get_legend_handles_labels(), **{"fontsize": LEGEND_SIZE, **options})
    legend.set_in_layout(False)  # it may reach over empty panels beside it


def add_caption(figure: "Figure", caption: str, badge: str) -> None:
    """Make room at the bottom for the wrapped caption, and at the top for the badge, where there is one."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(caption, int(width / _CHARACTER), break_on_hyphens=False)
    below = (len(lines) + 1) * _LINE_HEIGHT
    above = 1.3 * _LINE_HEIGHT if badge else 0.0
    total = height + below + above
    figure.set_size_inches(width, total)
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0, below / total, 1, height / total))
    text: Any = {"fontsize": CAPTION_SIZE, "parse_math": False}
    figure.text(0.012, 0.5 * _LINE_HEIGHT / total, "\n".join(lines), va="bottom", linespacing=1.2, **text)
    figure.text(0.988, 1 - 0.35 * _LINE_HEIGHT / total, badge, va="top", ha="right", color=GREY, weight="bold", **text)


def encode(figure: "Figure", kind: str) -> bytes:
    """Return the picture as ``png`` or ``svg``, without date or version, so that equal data give equal bytes."""
    buffer = BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return buffer.getvalue()

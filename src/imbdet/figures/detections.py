"""Example detections beside the ground truth."""

import base64
import json
import math
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imbdet.config import Study
from imbdet.figures import captions, records, style
from imbdet.layout import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from pandas import DataFrame, Series

TRUTH = "truth"
GAP = 0.1  # to the next image, over the width of a panel
TITLE = 0.3  # inches
FONT = 5.5  # points
LETTER = 0.6  # width of a letter over the size of the font, and more than most have
LINE = 1.5  # height of a label over the size of the font
DARK = style.COLOURS[1:4]  # of the colours of classes, those on which white is read better than black


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The examples, and the evaluation (label, score at which detections are shown) of each experiment."""
    return [layout.examples, *(layout.evaluation(name) for name in study.report.detections)]


def data(study: Study, layout: Layout) -> "DataFrame":
    """Per image a row ``shown`` = pixels (base64 PNG or nothing), then a row for each box (xywh in pixels).

    ``shown`` of a box is the experiment's name or ``truth``. ``panels`` (JSON) maps these to the titles of the panels,
    as an experiment without any detection has a panel too.
    """
    examples = records.read_json(layout.examples)
    evaluations = {name: records.read_json(layout.evaluation(name)) for name in study.report.detections}
    scores = {name: record["operating_point"]["score"] for name, record in evaluations.items()}
    names = {key: name for (key, _), name in records.class_names(examples["categories"].items()).items()}
    rows: list[dict[str, Any]] = []
    for image in examples["images"]:
        where = {"image_id": image["image_id"], "width": image["width"], "height": image["height"]}
        rows.append({**where, "shown": "pixels", "pixels": image["pixels"]})
        rows += _boxes(where, TRUTH, image["ground_truth"], names)
        for name, score in scores.items():
            found = [box for box in image["detections"][name] if box["score"] >= score]
            rows += _boxes(where, name, found, names)
    panels = {TRUTH: "ground truth"} | {name: record["label"] for name, record in evaluations.items()}
    return records.frame(rows).assign(panels=json.dumps(panels, ensure_ascii=False), lowest_score=min(scores.values()))


def _boxes(where: dict[str, Any], shown: str, boxes: list[Any], names: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {
            **where,
            "shown": shown,
            "category": names[str(box["category_id"])],
            **dict(zip(("x", "y", "w", "h"), box["bbox"], strict=True)),
            "score": box.get("score"),
        }
        for box in boxes
    ]


def caption(study: Study, data: "DataFrame") -> str:
    """Say which detections are shown and how the images were chosen."""
    blank = " The photographs are not passed on; boxes stand on blank canvases." if data["pixels"].isna().all() else ""
    return (
        "Ground truth beside the detections of trained detectors on the same images. Shown are detections with a score "
        f"of {data['lowest_score'].iloc[0]:g} or more, each with class and score; colours are classes. The images "
        f"are evenly spaced among those with boxes, not chosen by result.{blank} "
        + captions.about(study, f"{data['image_id'].nunique()} of the validation images")
    )


def draw(data: "DataFrame") -> "Figure":
    """A row of panels for each image; two images side by side where they fit."""
    panels = json.loads(data["panels"].iloc[0].replace(r"\$", r"\\$"))  # the mark of style.plain, as JSON has it
    images = [image for _, image in data.groupby("image_id", sort=False)]
    beside = 2 if len(panels) <= 3 and len(images) > 1 else 1
    widths = ([1.0] * len(panels) + [GAP]) * beside
    rows = -(-len(images) // beside)
    aspects = [float(image["height"].iloc[0] / image["width"].iloc[0]) for image in images]
    heights = [max(aspects[row * beside : (row + 1) * beside]) for row in range(rows)]
    height = sum(heights) * style.WIDTH / sum(widths) + TITLE
    figure, axes = style.canvas(height, rows, len(widths), width_ratios=widths, height_ratios=heights)
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    colours = _colours(data)
    for panel in axes:
        panel.set_axis_off()
    for number, image in enumerate(images):
        first = (len(panels) + 1) * number
        for panel, (name, title) in zip(axes[first:], panels.items(), strict=False):
            _panel(panel, image, name, colours, inches=style.WIDTH / sum(widths))
            panel.set_title(title if number < beside else "", fontsize=8)
    return figure


def _colours(data: "DataFrame") -> dict[str, str]:
    """A colour for each class, on photographs and in white boxes alike; black would be lost on dark pixels."""
    categories = sorted(data["category"].dropna().unique())
    return {name: style.COLOURS[1:][index % (len(style.COLOURS) - 1)] for index, name in enumerate(categories)}


def _panel(axes: "Axes", image: "DataFrame", name: str, colours: dict[str, str], inches: float) -> None:
    """One image with the boxes of an experiment or the truth, on a panel of this width."""
    from matplotlib.patches import Rectangle

    first = image.iloc[0]
    width, height = float(first["width"]), float(first["height"])
    if isinstance(first["pixels"], str):
        axes.imshow(_decode(first["pixels"]), extent=(0, width, height, 0), interpolation="nearest")
    else:
        axes.add_patch(Rectangle((0, 0), width, height, facecolor="#f3f3f3", edgecolor="#cccccc"))
    point = width / (72 * inches)  # in pixels of the image
    taken: list[_Place] = []
    for _, box in image[image["shown"] == name].iterrows():
        colour = colours[box["category"]]
        axes.add_patch(Rectangle((box["x"], box["y"]), box["w"], box["h"], fill=False, edgecolor=colour, linewidth=1.3))
        words = _words(box)
        size = (LETTER * FONT * len(words) * point, LINE * FONT * point)
        taken.append(_free_place(box, size, (width, height), taken))
        _label(axes, words, taken[-1], colour)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")


def _words(box: "Series[Any]") -> str:
    """Class, and score of a detection."""
    score = "" if math.isnan(box["score"]) else f" {box['score']:.2f}"
    return f"{box['category']}{score}".replace(" 0.", " .")


def _free_place(
    box: "Series[Any]", size: tuple[float, float], image: tuple[float, float], taken: "list[_Place]"
) -> "_Place":
    """Where a label of a size hides least of others: above its box or below, else within it at either end."""
    (width, height), top, bottom = size, box["y"], box["y"] + box["h"]
    x = max(0.0, min(box["x"], image[0] - width))
    seen = [y for y in (top - height, bottom, top, bottom - height) if 0 <= y <= image[1] - height]
    places = [_Place(x, y, x + width, y + height) for y in seen or [max(0.0, top)]]
    return min(places, key=lambda place: sum(place.overlap(other) for other in taken))


class _Place(NamedTuple):
    """A label's corners in pixels of the image."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "_Place") -> float:
        """The area that two have in common."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


def _label(axes: "Axes", words: str, place: _Place, colour: str) -> None:
    """Words in their class's colour, above all boxes."""
    axes.text(
        place.left,
        (place.top + place.bottom) / 2,
        words,
        va="center_baseline",
        fontsize=FONT,
        color="white" if colour in DARK else "black",
        zorder=4,
        clip_on=True,
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6},
    )


def _decode(pixels: str) -> "NDArray[Any]":
    from matplotlib.image import imread

    image: NDArray[Any] = imread(BytesIO(base64.b64decode(pixels)), format="png")
    return image

"""Example detections beside the ground truth."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    rows: list[dict[str, Any]] = []
    for image in examples["images"]:
        where = {"image_id": image["image_id"], "width": image["width"], "height": image["height"]}
        rows.append({**where, "shown": "pixels", "pixels": image["pixels"]})
        rows += _boxes(where, TRUTH, image["ground_truth"], examples["categories"])
        for name, score in scores.items():
            found = [box for box in image["detections"][name] if box["score"] >= score]
            rows += _boxes(where, name, found, examples["categories"])
    panels = {TRUTH: "ground truth"} | {name: record["label"] for name, record in evaluations.items()}
    return records.frame(rows).assign(panels=json.dumps(panels, ensure_ascii=False), lowest_score=min(scores.values()))


def _boxes(where: dict[str, Any], shown: str, boxes: list[Any], categories: Any) -> list[dict[str, Any]]:
    return [
        {
            **where,
            "shown": shown,
            "category": categories[str(box["category_id"])],
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
    panels = json.loads(data["panels"].iloc[0])
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
            _panel(panel, image, name, colours)
            panel.set_title(title if number < beside else "", fontsize=8)
    return figure


def _colours(data: "DataFrame") -> dict[str, str]:
    """A colour for each class, on photographs and in white boxes alike; black would be lost on dark pixels."""
    categories = sorted(data["category"].dropna().astype(str).unique())
    return {name: style.COLOURS[1:][index % (len(style.COLOURS) - 1)] for index, name in enumerate(categories)}


def _panel(axes: "Axes", image: "DataFrame", name: str, colours: dict[str, str]) -> None:
    from matplotlib.patches import Rectangle

    first = image.iloc[0]
    width, height = float(first["width"]), float(first["height"])
    if isinstance(first["pixels"], str):
        axes.imshow(_decode(first["pixels"]), extent=(0, width, height, 0), interpolation="nearest")
    else:
        axes.add_patch(Rectangle((0, 0), width, height, facecolor="#f3f3f3", edgecolor="#cccccc"))
    for _, box in image[image["shown"] == name].iterrows():
        colour = colours[str(box["category"])]
        axes.add_patch(Rectangle((box["x"], box["y"]), box["w"], box["h"], fill=False, edgecolor=colour, linewidth=1.3))
        _tag(axes, box, colour, height)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")


def _tag(axes: "Axes", box: "Series[Any]", colour: str, height: float) -> None:
    """Class, and score of a detection, above the box, or inside it where the box touches the image's upper edge."""
    words = str(box["category"]) + ("" if box["score"] != box["score"] else f" {box['score']:.2f}".replace(" 0.", " ."))
    inside = box["y"] < 0.07 * height
    axes.text(
        max(box["x"], 0),
        max(box["y"], 0),
        words,
        va="top" if inside else "bottom",
        fontsize=5.5,
        color="white" if colour in DARK else "black",
        clip_on=True,
        parse_math=False,
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6},
    )


def _decode(pixels: str) -> "NDArray[Any]":
    from matplotlib.image import imread

    image: NDArray[Any] = imread(BytesIO(base64.b64decode(pixels)), format="png")
    return image

"""Example images with their boxes, for the reader to choose what stands beside what."""

from typing import Any

from imbdet.config import Study
from imbdet.figures import style
from imbdet.figures.records import class_names, read_json
from imbdet.layout import Layout

TRUTH = "truth"


def read(study: Study, layout: Layout) -> dict[str, Any] | None:
    """What the page's script draws; None where no examples were picked.

    choices: names and labels, ground truth first. score: the lowest there is. categories: name and colour by id, of
    those that are shown. images: width, height, pixels (base64 PNG or None), and boxes by choice: category id, xywh in
    pixels, score or None.
    """
    if not layout.examples.is_file():
        return None
    record = read_json(layout.examples)
    labels = {
        name: study.experiments[name].label for name in record["images"][0]["detections"] if name in study.experiments
    }
    images = [_image(image, labels) for image in record["images"]]
    shown = {box["category"] for image in images for boxes in image["boxes"].values() for box in boxes}
    called = class_names(record["categories"].items())
    names = sorted((name, key) for (key, _), name in called.items() if key in shown)
    colours = style.COLOURS[1:]  # without black, which is lost on dark pixels
    return {
        "choices": [[TRUTH, "ground truth"], *([name, label] for name, label in labels.items())],
        "score": study.evaluate.operating_score,
        "categories": {
            key: {"name": name, "colour": colours[place % len(colours)]} for place, (name, key) in enumerate(names)
        },
        "images": images,
    }


def _image(image: Any, names: Any) -> dict[str, Any]:
    boxes = {TRUTH: [_box(box) for box in image["ground_truth"]]}
    boxes |= {name: [_box(box) for box in image["detections"][name]] for name in names}
    kept = ("image_id", "width", "height", "pixels")
    return {key: image[key] for key in kept} | {"boxes": boxes}


def _box(box: Any) -> dict[str, Any]:
    return {"category": str(box["category_id"]), "bbox": box["bbox"], "score": box.get("score")}

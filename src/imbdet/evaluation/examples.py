"""A few images with ground truth and detections, for the figure that shows them side by side.

The images are chosen by a rule that knows nothing of the results: those of the val split that hold at least one box,
sorted by id, of which :data:`COUNT` evenly spaced ones are taken, the first and the last included.
"""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from imbdet.config import Study
from imbdet.data.coco import Annotations, read_annotations
from imbdet.errors import UserError
from imbdet.evaluation.detections import Detections
from imbdet.files import write_json
from imbdet.layout import Layout

COUNT = 6


def run(study: Study, layout: Layout) -> None:
    """Write ``examples.json`` with the detections of ``study.report.detections`` that reach the operating score.

    Pixels are included only where the data are generated: photographs may not be passed on.
    """
    path = layout.annotations("val")
    truth = read_annotations(path)
    chosen = choose(truth)
    score = study.evaluate.operating_score
    found = {name: Detections.load(layout.detections(name), path) for name in study.report.detections}
    detections = {name: _at_least(own, score) for name, own in found.items()}
    folder = layout.images("val") if study.data.source == "shapes" else None
    record = {
        "study": study.name,
        "categories": {str(i): name for i, name in zip(truth.categories.ids, truth.categories.names, strict=True)},
        "images": [_example(truth, int(row), detections, folder) for row in chosen],
    }
    write_json(layout.examples, record)


def choose(truth: Annotations, count: int = COUNT) -> NDArray[np.int64]:
    """Positions of at most ``count`` images, by the module's rule. Raises UserError if no image holds a box."""
    with_boxes = np.unique(truth.objects.images)
    if not with_boxes.size:
        raise UserError(f"{truth.path}: no image holds a box, so there is no example to show")
    rows = np.linspace(0, len(with_boxes) - 1, min(count, len(with_boxes))).round().astype(np.int64)
    return with_boxes[rows]


def _at_least(detections: Detections, score: float) -> Detections:
    return detections.select(detections.score >= score)


def _example(truth: Annotations, row: int, detections: dict[str, Detections], folder: Path | None) -> dict[str, Any]:
    """The entry of the image at position ``row``: boxes xywh in pixels, detections from the highest score down."""
    image_id = int(truth.image_ids[row])
    height, width = truth.sizes[row].tolist()
    objects = truth.objects.rows(row)
    boxes = truth.objects.boxes[objects].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    categories = truth.categories.category_ids(truth.objects.labels[objects])
    return {
        "image_id": image_id,
        "width": width,
        "height": height,
        "pixels": _png(folder / truth.file_names[row]) if folder else None,
        "ground_truth": [
            {"category_id": c, "bbox": b} for c, b in zip(categories.tolist(), boxes.tolist(), strict=True)
        ],
        "detections": {name: _of_image(found, image_id) for name, found in detections.items()},
    }


def _of_image(detections: Detections, image_id: int) -> list[dict[str, Any]]:
    found = detections.select(detections.image_id == image_id)
    found = found.select(np.argsort(-found.score, kind="stable"))
    columns = (found.category_id.tolist(), found.bbox.tolist(), found.score.tolist())
    return [{"category_id": c, "bbox": b, "score": s} for c, b, s in zip(*columns, strict=True)]


def _png(path: Path) -> str:
    """The image as PNG, base64. Raises UserError if the file is missing or damaged."""
    remedy = "run the `data` command of the study to make it again"
    try:
        with Image.open(path) as image:
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, format="PNG")
    except FileNotFoundError as error:
        raise UserError(f"no image {path}; {remedy}") from error
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} is not a whole image: {error}; {remedy}") from error
    return base64.b64encode(buffer.getvalue()).decode("ascii")
